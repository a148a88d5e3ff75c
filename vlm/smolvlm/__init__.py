"""SmolVLM and Idefics3: one architecture, two stock classes."""
