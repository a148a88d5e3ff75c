"""The demo model: a small vision-language model that this project trains itself, from scene drawing to stock weights.

Knows: how scenes are drawn and questioned, how the model is built, trained, evaluated and shipped.
Does not know: pruning, routers, graphs or engines. To every other stage the result is one more Hugging Face directory.
"""
