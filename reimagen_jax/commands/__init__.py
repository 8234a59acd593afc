"""The subcommands of `reimagen`, one module each."""

COMMANDS = {
    "prepare": ("prepare:Prepare", "images with captions -> records"),
    "split": ("split:Split", "records -> parts: train and held-out; frequent, rare and unseen entities"),
    "encode-train": ("encode_train:EncodeTrain", "records -> an encoder, for knowledge bases that search by vectors"),
    "index": ("index:Index", "records -> knowledge base; adds to it, describes it, checks it"),
    "search": ("search:Search", "texts -> what a knowledge base finds for them, with a contact sheet"),
    "embed": ("embed:Embed", "captions of records -> embeddings by a frozen text encoder"),
    "triples": ("triples:BuildTriples", "records + knowledge base -> training data (KNN-ImageText)"),
    "train": ("train:main", "training data -> checkpoints"),
    "distill": ("distill:Distill", "checkpoint -> a model that draws in a few evaluations of its network"),
    "export": ("export:Export", "checkpoint -> safetensors, settings and a model card, to hand on"),
    "sample": ("sample:Sample", "prompts -> images, with neighbours from a knowledge base or given by hand"),
    "edit": ("edit:main", "images -> images: drawn on, inpainted, outpainted, varied, mixed, swapped"),
    "unclip": ("unclip:main", "images -> images like them, between them, changed by texts: by their embeddings"),
    "rcg": ("rcg:main", "nothing, classes or images -> images, by way of their representations"),
    "augment": ("augment:Augment", "records -> more records: variants of each, drawn from its own picture"),
    "reproduce": ("reproduce:Reproduce", "images -> the same images, drawn again from what they tell, and compared"),
    "seedselect": ("seedselect:main", "prompts + references -> images, from noise that is searched for them"),
    "sweep": ("sweep:Sweep", "prompts -> a report over eta: from all neighbours to all text"),
    "evaluate": ("evaluate:main", "checkpoint -> tables of faithfulness and alignment"),
    "verify": ("verify:Verify", "whether folders of all these kinds are whole"),
    "rater": ("rater:main", "trains and checks the rater that evaluate, sweep and demo use"),
    "demo": ("demo:Demo", "all of it in about a minute, with weights that come with the package"),
    "info": ("info:Info", "versions, devices, memory, caches, and what is installed of the extras"),
    "completion": ("completion:Completion", "the shell completes commands and options: bash, zsh, fish"),
}
"""Name -> (module and class in `reimagen_jax.commands`, what it does)."""
