"""The three stages of training, each a LightningModule."""

from tinyworlds.models.action_tokenizer import ActionTokenizer
from tinyworlds.models.dynamics import Dynamics
from tinyworlds.models.stage import Stage
from tinyworlds.models.video_tokenizer import VideoTokenizer

STAGES: dict[str, type[Stage]] = {stage.name: stage for stage in (VideoTokenizer, ActionTokenizer, Dynamics)}
"""The stages by name, in the order in which they are trained."""

__all__ = ["STAGES", "ActionTokenizer", "Dynamics", "Stage", "VideoTokenizer"]
