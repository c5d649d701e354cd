"""What clients speak: Open Inference Protocol v2 with Triton's extensions, and OpenAI's."""
