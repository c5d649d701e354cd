# bigscience/bloom-1b7: 1b7 as published (arXiv 2211.05100, table 3).
model = dict(
    type="BloomForCausalLM",
    vocab_size=250880,
    hidden_size=2048,
    n_layer=24,
    n_head=16,
)
