"""Gear: adapters for what stands at a lane, each a source of engine.gateway.capture.

    cameras   HTTP snapshot and MJPEG cameras (we ask them)
    readers   handheld readers that send lines over TCP (they come to us)
    thermal   thermal terminals that POST JSON or XML (they come to us)
    officer   a page on the box for entries by hand, and the lights of the lanes

What comes from the network of a post is hostile until it is proven otherwise: sizes, counts and
times have limits, and a fault of one piece of gear is told and costs its own lane only.
"""
