"""Write a policy as a file that plays without RLlib: ``.onnx``, or ``.pt2`` of ``torch.export``."""
