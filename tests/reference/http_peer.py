"""A device that POSTs, as a process of its own: a JSON line a request in, its answer a line out.

`python -m tests.reference.http_peer PORT` takes {"method"?, "path"?, "headers", "body_b64"} and
prints [status, body].
"""

from __future__ import annotations

import base64
import http.client
import json
import sys

if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
        try:
            link.request(
                request.get("method", "POST"),
                request.get("path", "/"),
                base64.b64decode(request["body_b64"]),
                request["headers"],
            )
            answer = link.getresponse()
            print(json.dumps([answer.status, answer.read().decode()]), flush=True)
        except (ConnectionError, http.client.HTTPException) as error:
            print(json.dumps([0, type(error).__name__]), flush=True)
        link.close()
