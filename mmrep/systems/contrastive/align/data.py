"""ALIGN's frequency-based filtering of noisy pairs (Jia et al. 2021, section 3)."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool


def keep_pairs(
    texts: Sequence[str], images: Sequence[int], *, max_images: int = 10, max_texts: int = 1000,
    min_words: int = 3, max_words: int = 20, vocabulary: int = 100_000_000,
) -> Bool[np.ndarray, " N"]:  # fmt: skip
    """Which (text, image id) pairs survive the filters.

    A text is dropped where more than `max_images` images share it, or it has fewer than `min_words` or more than `max_words` unigrams, or
    a unigram or bigram outside the `vocabulary` most frequent; an image is dropped with more than `max_texts` texts.
    """
    words = [t.lower().split() for t in texts]
    grams = [[*w, *pairwise(w)] for w in words]
    frequent = {g for g, _ in Counter(g for row in grams for g in row).most_common(vocabulary)}
    sharing = Counter(t for t, _ in set(zip(texts, images)))
    captions = Counter(i for _, i in set(zip(texts, images)))
    return np.array(
        [
            sharing[t] <= max_images and captions[i] <= max_texts and min_words <= len(w) <= max_words
            and all(g in frequent for g in row)
            for t, i, w, row in zip(texts, images, words, grams)
        ],
        bool,
    )  # fmt: skip
