"""What to feed, what to observe, how to round: everything between an fp32 bundle and a small one.

Nothing is here yet; the layer exists so that the direction of imports is enforced from the start
(calibration → export → runtime → _core).
"""
