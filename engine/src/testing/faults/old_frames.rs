//! Frames of earlier connections arrive again (RULES.md N8). Arguments: how many.

use super::Fault;

pub(super) const FAULT: Fault = Fault {
    name: "old frames",
    often: 12,
    draw: |random, _| [random.between(1, 40), 0, 0],
    inject: |run, [frames, _, _]| run.repeat_frames(frames),
};
