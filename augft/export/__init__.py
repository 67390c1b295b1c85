"""A run's model for others: as weights, as an ONNX model, as a PyTorch program; and a card that says what it is.

network.py   pictures as bytes → logits and probabilities, preprocessing inside
formats.py   the three formats, each checked against the model before it is handed out
card.py      MODEL.md
write.py     the files, whole or not at all
"""
