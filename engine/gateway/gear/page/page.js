// Lights of the lanes as they come, and no second record of one press. The page works without it.
"use strict";
const lost = document.getElementById("link");

function show(light) {
  const place = document.getElementById("lane-" + light.lane);
  if (!place) return;
  place.className = "light " + light.verdict;
  const mark = { accepted: "✓", seen: "↺", refused: "✕", alert: "!" }[light.verdict];
  const head = document.createElement("b");
  head.textContent = mark + " " + light.text;
  const rest = [light.name, light.why, light.local ? "chốt tự kiểm tra, chưa có trả lời từ trung tâm" : ""];
  place.replaceChildren("Làn " + light.lane + ": ", head, " " + rest.filter(Boolean).join(" · "));
}

const source = new EventSource("/v1/lights");
source.onmessage = (event) => { lost.hidden = true; show(JSON.parse(event.data)); };
source.onopen = () => { lost.hidden = true; };
source.onerror = () => { lost.hidden = false; };
document.querySelector("form").addEventListener("submit", (event) => {
  event.target.querySelector("button").disabled = true;
});
