//! Heavy loss, doubling and delay of frames for a while (RULES.md N8). Arguments: one frame lost in so many, the
//! longest delay, for how many steps.

use super::Fault;
use crate::testing::shape::Weather;

pub(super) const FAULT: Fault = Fault {
    name: "bad weather",
    often: 5,
    draw: |random, _| {
        [*random.pick(&[2, 3, 5]), *random.pick(&[2, 10, 40]), *random.pick(&[20, 60, 150])]
    },
    inject: |run, [lose, delay, steps]| {
        let weather = Weather { lose_once_in: lose, twice_once_in: 3, delay_max: delay };
        run.gust(weather, steps);
    },
};
