"""What chatflow needs from the outside, in its own words. Nothing here knows a driver, a command or a wire."""
