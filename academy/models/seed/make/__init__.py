"""Makes the seed: the small base model that The Academy ships so that everything runs without a download.

The stages run in this order. Each reads the files that the stage before it left in the work folder:

    corpus     collect the Python documentation and library source, invent the chat tasks
    tokenizer  train the byte-level BPE, encode the corpus
    train      pre-train a small Llama on a CPU; resumes from its checkpoint
    evaluate   measure held-out perplexity and how well unseen words are copied
    lora       check that a LoRA on top of the model learns a small mapping quickly
    export     write the model folder: weights, configuration, tokenizer, card, SHA256SUMS

Example (the documentation is the unpacked Debian package python3.11-doc):

    python -m academy.models.seed.make all --docs html/_sources --library lib/python3.11 --work work --minutes 55
"""
