"""Your own network config with SEAL, untouched: ``-o base "'path/to/your_network.py'"``.

Its ``get_model`` is used, and its ``get_loss``, ``get_train_fn`` with ``get_evaluate_fn``, and ``init_opt`` if it has
them; other options are passed on to it. Checkpoints are those of your network.
"""

from seal_weaver import with_seal
from seal_weaver.base import BaseConfig

base = BaseConfig()
get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(
    base.get_model, base.get_loss, base.get_train_fn, base.get_evaluate_fn
)
init_opt = base.init_opt
