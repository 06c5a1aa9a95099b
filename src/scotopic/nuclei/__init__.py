"""Image to numbers: reference masks, quality gate, measurements, cell cycle, matching."""
