# bigscience/bloom-1b1: 1b1 as published (arXiv 2211.05100, table 3).
model = dict(
    type="BloomForCausalLM",
    vocab_size=250880,
    hidden_size=1536,
    n_layer=24,
    n_head=16,
)
