from test_trial import *
import pytest
@pytest.mark.parametrize("heal",[{"num_train":0},{"num_train":-5},{"target_modules":("nonsense",)},{"alpha":-3}],ids=str)
def test_x(new_bench, heal):
    b=new_bench(heal={"num_steps":2,"batch_size":2,"r":4,"num_train":4}|heal)
    try: print("RESULT", heal, _finish(b.run(PROBE))[0]["losses"])
    except BaseException as e: print("RESULT", heal, repr(e)[:300])
def _finish(steps):
    while True:
        try: next(steps)
        except StopIteration as e: return e.value,[]
