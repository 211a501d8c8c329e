"""What `stageline demo` needs torch for: training, importing, and the answers of the unsplit models."""
