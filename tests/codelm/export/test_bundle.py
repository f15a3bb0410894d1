def test_x(gguf, trained):
    import training.metrics as m
    for r in m.read(trained): print(r)
    print(list(gguf.parent.iterdir()))
    from codelm.stage import Manifest
    for s in ("corpus","tokenizer","tokens","pretrain","evaluate","export"):
        x=Manifest.read(gguf.parent.parent/s); print(s,x.seconds,x.counts)
