"""What can go wrong with features: what a run with it is called, what usually causes it and what to do next."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """state: what a run with it is called; opening: the sentence's beginning; usual: where it comes from; next: what to do."""

    state: str
    opening: str
    usual: str
    next: str


CAUSES = {  # in the order of priority: what makes the other numbers meaningless, then what explains them, then what they show
    "diverged": Cause(
        "collapsed",
        "Training has diverged",
        "learning rate too high, or half precision without loss scaling",
        "go back, halve the learning rate and clip gradients; if it breaks at the same step again, look for NaN in that batch",
    ),
    "alias": Cause(
        "miswired",
        "The teacher is the student",
        "teacher = student instead of a copy, or a momentum of 0",
        "make the teacher with copy.deepcopy(student) and move it by momentum 0.99 or more",
    ),
    "unlearned": Cause(
        "miswired",
        "Nothing is being learned",
        "the optimiser holds other parameters than this model's, the loss is detached from it, or the learning rate is 0",
        "look whether parameters have a gradient after backward(), and whether the optimiser was made from model.parameters()",
    ),
    "stuck": Cause(
        "miswired",
        "The loss stands at ln K: the output is the same for every prototype",
        "the teacher is the student, its temperature is too high, or centring outweighs what it says",
        "check that the teacher is a copy, then lower its temperature (0.04) and warm the learning rate up for longer",
    ),
    "entropy": Cause(
        "collapsed",
        "Attention has collapsed onto single tokens",
        "learning rate too high, or warm-up too short: queries and keys grow without bound",
        "go back, halve the learning rate or warm up for longer; normalise queries and keys if it comes again",
    ),
    "prototype": Cause(
        "collapsed",
        "Prototypes have collapsed: almost all images fall on the same few",
        "no centring or sharing-out of the teacher's output, or a teacher temperature too low",
        "turn centring (or Sinkhorn) on, raise the teacher's temperature, then start again",
    ),
    "point": Cause(
        "collapsed",
        "Features have collapsed",
        "learning rate or weight decay too high, gradients that reach the teacher, or nothing that keeps images apart",
        "check the stop-gradient, then start again with half the learning rate",
    ),
    "token": Cause(
        "collapsed",
        "Tokens have collapsed: those of one image are all alike",
        "learning rate too high after warm-up, or an objective on image-level features alone over many layers",
        "halve the learning rate; add a loss on tokens, or take tokens from an earlier layer",
    ),
    "position": Cause(
        "collapsed",
        "Tokens say where they are and little else",
        "a task that position alone solves: crops that are always aligned, or targets that hold the position",
        "shift the crops of each view by chance, or take the position out of the targets",
    ),
    "head": Cause(
        "collapsed",
        "Heads have become copies of each other",
        "heads that started alike, too strong weight decay, or a learning rate too high",
        "switch heads off one at a time (headwater observe) to see which matter; else start again with fewer",
    ),
    "shortcut": Cause(
        "miswired",
        "Features agree through a shortcut",
        "the scanner or the intensity tells images apart, and the views leave it as it is",
        "normalise each scan, vary the intensity of each view, and balance the groups in a batch",
    ),
    "noise": Cause(
        "random",
        "Features follow noise rather than the images",
        "targets that are noise, views that share too little, or labels and images that are out of step",
        "check that targets belong to their images, then raise the overlap of the views",
    ),
    "dimensional": Cause(
        "collapsed",
        "Features have collapsed into few directions",
        "learning rate too high after warm-up, gradients that reach the teacher, or nothing that keeps directions apart",
        "start again with half the learning rate, or with a stronger variance and covariance term",
    ),
    "order": Cause(
        "miswired",
        "The order of the tokens plays no part",
        "position embeddings that are zero, never added, or without a gradient",
        "check that positions are added before the first layer and are among the optimiser's parameters",
    ),
    "decay": Cause(
        "collapsed",
        "Tokens get worse: neighbours lose what they had in common",
        "long training of an image-level loss",
        "keep the earlier checkpoint for dense tasks; add a loss on tokens, or anchor their Gram matrix to that checkpoint",
    ),
}
