"""`stageline deploy`: a site of several boxes, each a Docker engine, made to be what a file says."""
