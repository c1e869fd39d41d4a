// SPDX-License-Identifier: GPL-2.0

//! Power state machines of the L2 cache, the tiler, the shader cores and the core stacks.
//!
//! A core that is asked to come up is in transition for a while, then ready; one that is asked to
//! go down is not ready any more at once and in transition for a while. Cores wait for the L2 to
//! come up, the L2 waits for all cores to go down, and shader cores wait for running jobs: until
//! then the bits show in `PWRTRANS`.
//!
//! Locks: none of its own, part of the GPU's state.

use crate::product::Product;

/// A kind of power domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Level 2 caches.
    L2 = 0,
    /// Tilers.
    Tiler = 1,
    /// Shader cores.
    Shader = 2,
    /// Core stacks.
    Stack = 3,
}

impl Unit {
    /// All units.
    pub const ALL: [Unit; 4] = [Unit::L2, Unit::Tiler, Unit::Shader, Unit::Stack];
}

#[derive(Clone, Copy, Debug, Default)]
struct Domain {
    present: u64,
    wanted: u64,
    ready: u64,
    rising: u64,
    falling: u64,
}

impl Domain {
    fn moving(&self) -> u64 {
        self.rising | self.falling
    }

    fn trans(&self) -> u64 {
        self.moving() | (self.wanted ^ self.ready)
    }
}

/// A transition that has begun and is to be finished later by [`Power::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whose.
    pub unit: Unit,
    /// Which cores.
    pub cores: u64,
}

/// The state of all domains.
#[derive(Clone, Debug)]
pub struct Power {
    domains: [Domain; 4],
}

impl Power {
    /// Everything is off.
    pub fn new(product: &Product) -> Self {
        let mut domains = [Domain::default(); 4];
        domains[Unit::L2 as usize].present = product.l2_present;
        domains[Unit::Tiler as usize].present = product.tiler_present;
        domains[Unit::Shader as usize].present = product.shader_present;
        domains[Unit::Stack as usize].present = product.stack_present;
        Self { domains }
    }

    fn domain(&self, unit: Unit) -> &Domain {
        &self.domains[unit as usize]
    }

    /// `PRESENT`.
    pub fn present(&self, unit: Unit) -> u64 {
        self.domain(unit).present
    }

    /// `READY`.
    pub fn ready(&self, unit: Unit) -> u64 {
        self.domain(unit).ready
    }

    /// `PWRTRANS`.
    pub fn trans(&self, unit: Unit) -> u64 {
        self.domain(unit).trans()
    }

    /// Whether any transition is under way or waiting.
    pub fn active(&self) -> bool {
        self.domains.iter().any(|d| d.trans() != 0)
    }

    /// `PWRON`.
    pub fn on(&mut self, unit: Unit, cores: u64) {
        let domain = &mut self.domains[unit as usize];
        domain.wanted |= cores & domain.present;
    }

    /// `PWROFF`.
    pub fn off(&mut self, unit: Unit, cores: u64) {
        self.domains[unit as usize].wanted &= !cores;
    }

    /// Begins a transition that can begin, if there is one. `busy`: a job runs.
    pub fn begin(&mut self, busy: bool) -> Option<Transition> {
        let l2_up = self.domain(Unit::L2).ready != 0;
        let cores_down = [Unit::Tiler, Unit::Shader, Unit::Stack]
            .into_iter()
            .all(|unit| self.domain(unit).ready | self.domain(unit).moving() == 0);
        for unit in Unit::ALL {
            let (may_rise, may_fall) = match unit {
                Unit::L2 => (true, cores_down),
                Unit::Shader | Unit::Tiler => (l2_up, !busy),
                Unit::Stack => (l2_up, true),
            };
            let domain = &mut self.domains[unit as usize];
            let still = !domain.moving();
            let rise = domain.wanted & !domain.ready & still;
            if may_rise && rise != 0 {
                domain.rising |= rise;
                return Some(Transition { unit, cores: rise });
            }
            let fall = domain.ready & !domain.wanted & still;
            if may_fall && fall != 0 {
                domain.falling |= fall;
                domain.ready &= !fall;
                return Some(Transition { unit, cores: fall });
            }
        }
        None
    }

    /// Ends a transition.
    pub fn finish(&mut self, transition: Transition) {
        let domain = &mut self.domains[transition.unit as usize];
        domain.ready |= domain.rising & transition.cores;
        domain.rising &= !transition.cores;
        domain.falling &= !transition.cores;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::T860;

    #[test]
    fn cores_wait_for_the_l2() {
        let mut power = Power::new(&T860);
        power.on(Unit::Shader, !0);
        assert_eq!(power.begin(false), None);
        assert_eq!(power.trans(Unit::Shader), 0xf);
        power.on(Unit::L2, 1);
        let l2 = power.begin(false).unwrap();
        assert_eq!(
            l2,
            Transition {
                unit: Unit::L2,
                cores: 1
            }
        );
        assert_eq!(power.begin(false), None);
        assert_eq!(power.ready(Unit::L2), 0);
        power.finish(l2);
        assert_eq!(power.ready(Unit::L2), 1);
        let shader = power.begin(false).unwrap();
        assert_eq!(shader.cores, 0xf);
        power.finish(shader);
        assert_eq!(power.ready(Unit::Shader), 0xf);
        assert!(!power.active());
    }

    #[test]
    fn the_l2_waits_for_the_cores_and_cores_for_jobs() {
        let mut power = Power::new(&T860);
        for unit in [Unit::L2, Unit::Tiler, Unit::Shader] {
            power.on(unit, !0);
            let t = power.begin(false).unwrap();
            power.finish(t);
        }
        power.off(Unit::L2, 1);
        assert_eq!(power.begin(false), None);
        assert_eq!(power.trans(Unit::L2), 1);
        power.off(Unit::Tiler, 1);
        let t = power.begin(false).unwrap();
        assert_eq!(power.ready(Unit::Tiler), 0);
        assert_eq!(power.trans(Unit::Tiler), 1);
        power.finish(t);
        power.off(Unit::Shader, !0);
        assert_eq!(power.begin(true), None);
        let t = power.begin(false).unwrap();
        assert_eq!(power.begin(false), None);
        power.finish(t);
        let t = power.begin(false).unwrap();
        assert_eq!(t.unit, Unit::L2);
        power.finish(t);
        assert!(!power.active());
    }

    #[test]
    fn up_again_while_going_down() {
        let mut power = Power::new(&T860);
        power.on(Unit::L2, 1);
        let t = power.begin(false).unwrap();
        power.finish(t);
        power.off(Unit::L2, 1);
        let down = power.begin(false).unwrap();
        power.on(Unit::L2, 1);
        assert_eq!(power.begin(false), None);
        power.finish(down);
        let up = power.begin(false).unwrap();
        power.finish(up);
        assert_eq!(power.ready(Unit::L2), 1);
    }
}
