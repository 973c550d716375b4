"""Shadows: found, lifted off what lies beneath, and refined. Shadow masks are bool (H, W), True = shadow."""
