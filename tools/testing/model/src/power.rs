// SPDX-License-Identifier: GPL-2.0

//! Power state machines of the L2 cache, the tiler, the shader cores and the core stacks.
//!
//! A core that is told to power up is in transition for a while, then ready; one that is told to
//! power down is no longer ready immediately, and in transition for a while. Cores wait for the L2
//! to come up, the L2 waits for all cores to go down, and shader cores and tilers wait for running
//! jobs before they go down: until then the bits are set in `PWRTRANS`.
//!
//! On a product with several L2 caches, each serves the group of cores that begins with the core of
//! the same number, and cores wait for their own cache. A job starts if any core of its affinity is
//! up, and runs on those: C panfrost works on such boards although it always requests the cores of
//! all groups and powers only the first group. A job whose affinity has no core that is up waits
//! until one is.
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

/// A transition that has begun and is finished later by [`Power::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The unit.
    pub unit: Unit,
    /// The cores.
    pub cores: u64,
}

/// The manner in which transitions proceed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Whether cores come up one after the other.
    pub one_by_one: bool,
    /// Cores that never complete coming up, by unit.
    pub never_up: [u64; 4],
    /// Cores that never complete going down, by unit.
    pub never_down: [u64; 4],
}

/// The state of all domains.
#[derive(Clone, Debug)]
pub struct Power {
    domains: [Domain; 4],
}

impl Power {
    /// Creates the state with everything off.
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

    /// Returns the value of `PRESENT`.
    pub fn present(&self, unit: Unit) -> u64 {
        self.domain(unit).present
    }

    /// Returns the value of `READY`.
    pub fn ready(&self, unit: Unit) -> u64 {
        self.domain(unit).ready
    }

    /// Returns the value of `PWRTRANS`.
    pub fn trans(&self, unit: Unit) -> u64 {
        self.domain(unit).trans()
    }

    /// Returns whether any transition is in progress or waiting.
    pub fn active(&self) -> bool {
        self.domains.iter().any(|d| d.trans() != 0)
    }

    /// Returns whether everything is off and nothing is in transition.
    pub fn all_off(&self) -> bool {
        self.domains.iter().all(|d| d.ready | d.moving() == 0)
    }

    /// Handles a write to `PWRON`.
    pub fn on(&mut self, unit: Unit, cores: u64) {
        let domain = &mut self.domains[unit as usize];
        domain.wanted |= cores & domain.present;
    }

    /// Handles a write to `PWROFF`.
    pub fn off(&mut self, unit: Unit, cores: u64) {
        self.domains[unit as usize].wanted &= !cores;
    }

    /// Returns the cores whose L2 cache is up.
    fn fed(&self) -> u64 {
        let l2 = self.domain(Unit::L2);
        let mut left = l2.present;
        let mut fed = 0;
        while left != 0 {
            let first = left & left.wrapping_neg();
            left &= !first;
            let next = left & left.wrapping_neg();
            if l2.ready & first != 0 {
                fed |= next.wrapping_sub(first);
            }
        }
        fed
    }

    /// Begins a transition that can begin, if there is one. `busy` says that a job is running.
    pub fn begin(&mut self, busy: bool, manner: &Manner) -> Option<Transition> {
        let fed = self.fed();
        let others = if fed != 0 { !0 } else { 0 };
        let cores_down = [Unit::Tiler, Unit::Shader, Unit::Stack]
            .into_iter()
            .all(|unit| self.domain(unit).ready | self.domain(unit).moving() == 0);
        for unit in Unit::ALL {
            let (may_rise, may_fall) = match unit {
                Unit::L2 => (!0, cores_down),
                Unit::Shader => (fed, !busy),
                Unit::Tiler => (others, !busy),
                Unit::Stack => (others, true),
            };
            let never_up = manner.never_up[unit as usize];
            let never_down = manner.never_down[unit as usize];
            let domain = &mut self.domains[unit as usize];
            let mut rise = domain.wanted & !domain.ready & !domain.moving() & may_rise;
            domain.rising |= rise & never_up;
            rise &= !never_up;
            if manner.one_by_one {
                rise = if domain.rising & !never_up == 0 {
                    rise & rise.wrapping_neg()
                } else {
                    0
                };
            }
            if rise != 0 {
                domain.rising |= rise;
                return Some(Transition { unit, cores: rise });
            }
            let mut fall = domain.ready & !domain.wanted & !domain.moving();
            if may_fall {
                domain.ready &= !fall;
                domain.falling |= fall;
                fall &= !never_down;
                if fall != 0 {
                    return Some(Transition { unit, cores: fall });
                }
            }
        }
        None
    }

    /// Lets the cores of `manner` that could not complete a transition do so from now on: those
    /// that were coming up start again, those that were going down are down.
    pub fn unstick(&mut self, manner: &Manner) {
        for unit in Unit::ALL {
            let domain = &mut self.domains[unit as usize];
            domain.rising &= !manner.never_up[unit as usize];
            domain.falling &= !manner.never_down[unit as usize];
        }
    }

    /// Returns whether an L2 cache is up or in transition.
    pub fn l2_alive(&self) -> bool {
        let l2 = self.domain(Unit::L2);
        l2.ready | l2.moving() != 0
    }

    /// Returns whether a transition in progress is one of powering up.
    pub fn rises(&self, transition: Transition) -> bool {
        self.domain(transition.unit).rising & transition.cores != 0
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
    use crate::product::T628;
    use crate::product::T860;

    const USUAL: Manner = Manner {
        one_by_one: false,
        never_up: [0; 4],
        never_down: [0; 4],
    };

    #[test]
    fn cores_wait_for_the_l2() {
        let mut power = Power::new(&T860);
        power.on(Unit::Shader, !0);
        assert_eq!(power.begin(false, &USUAL), None);
        assert_eq!(power.trans(Unit::Shader), 0xf);
        power.on(Unit::L2, 1);
        let l2 = power.begin(false, &USUAL).unwrap();
        assert_eq!(
            l2,
            Transition {
                unit: Unit::L2,
                cores: 1
            }
        );
        assert_eq!(power.begin(false, &USUAL), None);
        assert_eq!(power.ready(Unit::L2), 0);
        power.finish(l2);
        assert_eq!(power.ready(Unit::L2), 1);
        let shader = power.begin(false, &USUAL).unwrap();
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
            let t = power.begin(false, &USUAL).unwrap();
            power.finish(t);
        }
        power.off(Unit::L2, 1);
        assert_eq!(power.begin(false, &USUAL), None);
        assert_eq!(power.trans(Unit::L2), 1);
        power.off(Unit::Tiler, 1);
        let t = power.begin(false, &USUAL).unwrap();
        assert_eq!(power.ready(Unit::Tiler), 0);
        assert_eq!(power.trans(Unit::Tiler), 1);
        power.finish(t);
        power.off(Unit::Shader, !0);
        assert_eq!(power.begin(true, &USUAL), None);
        let t = power.begin(false, &USUAL).unwrap();
        assert_eq!(power.begin(false, &USUAL), None);
        power.finish(t);
        let t = power.begin(false, &USUAL).unwrap();
        assert_eq!(t.unit, Unit::L2);
        power.finish(t);
        assert!(!power.active());
    }

    #[test]
    fn up_again_while_going_down() {
        let mut power = Power::new(&T860);
        power.on(Unit::L2, 1);
        let t = power.begin(false, &USUAL).unwrap();
        power.finish(t);
        power.off(Unit::L2, 1);
        let down = power.begin(false, &USUAL).unwrap();
        power.on(Unit::L2, 1);
        assert_eq!(power.begin(false, &USUAL), None);
        power.finish(down);
        let up = power.begin(false, &USUAL).unwrap();
        power.finish(up);
        assert_eq!(power.ready(Unit::L2), 1);
    }

    fn up(power: &mut Power, manner: &Manner, unit: Unit, cores: u64) {
        power.on(unit, cores);
        while let Some(t) = power.begin(false, manner) {
            power.finish(t);
        }
    }

    #[test]
    fn one_core_after_the_other() {
        let manner = Manner {
            one_by_one: true,
            ..USUAL
        };
        let mut power = Power::new(&T860);
        up(&mut power, &manner, Unit::L2, 1);
        power.on(Unit::Shader, 0xf);
        for n in 0..4 {
            let t = power.begin(false, &manner).unwrap();
            assert_eq!(t.cores, 1 << n);
            assert_eq!(power.begin(false, &manner), None);
            assert_eq!(power.trans(Unit::Shader), 0xf & !((1 << n) - 1));
            power.finish(t);
            assert_eq!(power.ready(Unit::Shader), (2 << n) - 1);
        }
        assert!(!power.active());
    }

    #[test]
    fn a_core_that_does_not_come_up() {
        for one_by_one in [false, true] {
            let mut manner = Manner {
                one_by_one,
                ..USUAL
            };
            manner.never_up[Unit::Shader as usize] = 0x2;
            let mut power = Power::new(&T860);
            up(&mut power, &manner, Unit::L2, 1);
            up(&mut power, &manner, Unit::Shader, 0xf);
            assert_eq!(power.ready(Unit::Shader), 0xd);
            assert_eq!(power.trans(Unit::Shader), 0x2);
            power.unstick(&manner);
            up(&mut power, &USUAL, Unit::Shader, 0);
            assert_eq!(power.ready(Unit::Shader), 0xf);
        }
    }

    #[test]
    fn a_core_that_does_not_settle_down() {
        let mut manner = USUAL;
        manner.never_down[Unit::Shader as usize] = 0x8;
        let mut power = Power::new(&T860);
        up(&mut power, &manner, Unit::L2, 1);
        up(&mut power, &manner, Unit::Shader, 0xf);
        power.off(Unit::Shader, 0xf);
        power.off(Unit::L2, 1);
        up(&mut power, &manner, Unit::Shader, 0);
        assert_eq!(power.ready(Unit::Shader), 0);
        assert_eq!(power.trans(Unit::Shader), 0x8);
        assert_eq!(power.ready(Unit::L2), 1);
        power.unstick(&manner);
        up(&mut power, &USUAL, Unit::Shader, 0);
        assert!(!power.active() && !power.l2_alive());
    }

    #[test]
    fn a_group_of_cores_needs_its_own_l2() {
        let mut power = Power::new(&T628);
        up(&mut power, &USUAL, Unit::L2, 0x1);
        up(&mut power, &USUAL, Unit::Shader, 0x3f);
        assert_eq!(power.ready(Unit::Shader), 0xf);
        assert_eq!(power.trans(Unit::Shader), 0x30);
        up(&mut power, &USUAL, Unit::L2, 0x10);
        assert_eq!(power.ready(Unit::Shader), 0x3f);
        let mut power = Power::new(&T628);
        up(&mut power, &USUAL, Unit::L2, 0x10);
        up(&mut power, &USUAL, Unit::Shader, 0x3f);
        assert_eq!(power.ready(Unit::Shader), 0x30);
    }

    #[test]
    fn off_is_neither_ready_nor_moving() {
        let mut power = Power::new(&T860);
        assert!(power.all_off());
        power.on(Unit::L2, 1);
        assert!(power.all_off());
        let up = power.begin(false, &USUAL).unwrap();
        assert!(!power.all_off());
        power.finish(up);
        assert!(!power.all_off());
        power.off(Unit::L2, 1);
        let down = power.begin(false, &USUAL).unwrap();
        assert!(!power.all_off());
        power.finish(down);
        assert!(power.all_off());
    }
}
