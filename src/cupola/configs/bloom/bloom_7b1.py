# bigscience/bloom-7b1: 7b1 as published (arXiv 2211.05100, table 3).
model = dict(
    type="BloomForCausalLM",
    vocab_size=250880,
    hidden_size=4096,
    n_layer=30,
    n_head=32,
)
