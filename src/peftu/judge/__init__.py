"""Is personalising worth it, for whom, and how sure are we? Analysis of scores, without a model.

``judge`` gives a ``Judgement``, whose JSON form is ``schemas/judgement-v1.json``; what each quantity means stands in
``docs/judging.md``.
"""

from peftu.judge.judgement import Evidence, judge, read_judgement, write_judgement
from peftu.judge.shapes import JUDGEMENT, Judgement

__all__ = ["JUDGEMENT", "Evidence", "Judgement", "judge", "read_judgement", "write_judgement"]
