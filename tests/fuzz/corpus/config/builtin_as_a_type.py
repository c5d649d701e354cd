_ = dict(type=len)
