"""Real data at the cost of vectors: gradients of the emoji's drawings, and counts of the words of their names and keywords.

The split is by concept family (`mmrep.data.emoji.concepts`): skin tones, genders, directions, series and names of a test concept are in no
training record. The counted words and the principal axes come from the training split alone. Drawings by OpenMoji (CC BY-SA), names from CLDR.
"""

from mmrep.data.components import Components
from mmrep.data.emoji import Emoji
from mmrep.data.features import Features

FEATURES = Features(Emoji(languages=("en",), variants=False, tones=False), text=("text", "keywords"), words=400)
COMPONENTS = Components(FEATURES, ("gradients", "words"), k=128)
