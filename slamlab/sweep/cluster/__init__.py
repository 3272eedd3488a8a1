"""The sweep on Ray, on this machine or a cluster: the only folder that imports it.

In: a :class:`~slamlab.sweep.campaign.Campaign`, which says what is next and learns what came of it. `start` joins a
cluster, `nodes` waits for it to grow, `run` serves a sweep by Ray Tune, `worker` and `ranks` are its actors, `maps`
makes redundancy maps, `trackers` tells others, and `capacity` knows how a cluster may grow.
"""

import os

# Before Ray is imported, which reads them then. No result files a trial beside our records; no `uv run` in workers.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Tune's own state is never restored: saving it again and again would take up to a twentieth of the driver's time.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")
