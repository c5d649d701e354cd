# bigscience/bloom-560m: 560m as published (arXiv 2211.05100, table 3).
model = dict(
    type="BloomForCausalLM",
    vocab_size=250880,
    hidden_size=1024,
    n_layer=24,
    n_head=16,
)
