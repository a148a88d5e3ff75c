"""From messages to token ids, as the model's own chat template and tokenizer make them; for building and answering."""
