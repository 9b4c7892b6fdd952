"""How large and how costly a model is: parameters, FLOPs, speed, and the paper's tables of them."""
