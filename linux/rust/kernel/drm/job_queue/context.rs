// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Contexts, their FIFOs, and how jobs get into them.
//!
//! Locks: an [`Entity`]'s `order` mutex, then the queue's spinlock. A [`JobInner`] is accessed
//! through the job's [`ListArc`] only. Process context; may sleep until the job is armed.

use super::{
    account::{
        Account,
        Place, //
    },
    lending::{
        Blocker,
        Lending, //
    },
    queue::{
        Deliver,
        LockClass,
        Shared,
        Watch, //
    },
    state::QueueState,
    turns::{
        End,
        Share,
        Standing,
        Ticket,
        Turn, //
    },
    Config,
    Dependencies,
    Kind,
    Priority,
    QueueSlot,
    SlotOps,
    CANCELLED,
    MAX_SLOTS,
    PRIORITIES, //
};
use crate::{
    dma_buf::fence::{
        ArmedFence,
        Fence,
        FenceAlloc,
        FenceContext,
        Signalling, //
    },
    list::{
        define_list_arc_field_getter,
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        List,
        ListArc,
        ListArcField,
        ListLinks,
        TryNewListArc, //
    },
    prelude::*,
    rbtree::RBTreeNode,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        lock::mutex::MutexGuard,
        static_lock_class,
        Arc,
        LockedBy,
        Mutex,
        UniqueArc, //
    },
};
use core::{
    convert::Infallible,
    mem::MaybeUninit, //
};

/// One FIFO: a context's jobs for one slot.
#[pin_data]
pub(super) struct Entity<K: Kind> {
    /// Links the list of entities with a job.
    #[pin]
    links: ListLinks,
    #[pin]
    tracker: AtomicTracker,
    /// Links the list of entities whose first job has a priority to lend.
    #[pin]
    lending_links: ListLinks<1>,
    #[pin]
    lending_tracker: AtomicTracker<1>,
    /// Held from arming to pushing.
    #[pin]
    order: Mutex<()>,
    pub(super) shared: Arc<Shared<K>>,
    /// The slot that the jobs are for.
    pub(super) home: QueueSlot,
    pub(super) priority: Priority,
    pub(super) share: Share,
    pub(super) account: Arc<Account>,
    pub(super) timeline: FenceContext,
    pub(super) state: LockedBy<EntityState<K>, QueueState<K>>,
}

impl_list_arc_safe! {
    impl{K: Kind} ListArcSafe<0> for Entity<K> {
        tracked_by tracker: AtomicTracker;
    }
}

impl_list_item! {
    impl{K: Kind} ListItem<0> for Entity<K> { using ListLinks { self.links }; }
}

impl_list_arc_safe! {
    impl{K: Kind} ListArcSafe<1> for Entity<K> {
        tracked_by lending_tracker: AtomicTracker<1>;
    }
}

impl_list_item! {
    impl{K: Kind} ListItem<1> for Entity<K> { using ListLinks { self.lending_links }; }
}

/// The part of an [`Entity`] that the queue's lock protects.
pub(super) struct EntityState<K: Kind> {
    /// Jobs that are not in the hardware, the oldest first.
    pub(super) fifo: List<Job<K>>,
    /// The number of jobs in the hardware. They are older than those in the FIFO.
    pub(super) in_hardware: usize,
    /// The memory needed to stand in line; present unless the entity stands in one.
    pub(super) ticket: Option<Ticket<K>>,
    /// The entity's place in line, if it stands in one.
    pub(super) turn: Option<(Standing, Turn)>,
    /// For each priority, the sequence number of the last job to which it was lent.
    pub(super) lent: [u64; PRIORITIES],
    /// The sequence number of the last urgent job. All jobs before it are urgent, too.
    pub(super) urgent: u64,
    /// The last sweep that it has seen.
    pub(super) sweeps: u64,
}

/// A job with everything that the queue needs for it.
#[pin_data]
pub(super) struct Job<K: Kind> {
    #[pin]
    links: ListLinks,
    pub(super) entity: Arc<Entity<K>>,
    inner: ListArcField<JobInner<K>>,
    pub(super) payload: K::Job,
    /// The sequence number of its fence, set when it is pushed.
    pub(super) seqno: Atomic<u64>,
    /// Whether its context was closed because it hung.
    pub(super) closing: Atomic<bool>,
    // Released when the job is freed.
    _place: Place,
}

impl_list_arc_safe! {
    impl{K: Kind} ListArcSafe<0> for Job<K> { untracked; }
}

impl_list_item! {
    impl{K: Kind} ListItem<0> for Job<K> { using ListLinks { self.links }; }
}

impl<K: Kind> Job<K> {
    define_list_arc_field_getter! {
        pub(super) fn inner(&mut self<0>) -> &mut JobInner<K> { inner }
    }

    /// Returns the mutable part of the job for reading.
    ///
    /// # Safety
    ///
    /// The caller must have shared access to the list that the job is in.
    pub(super) unsafe fn inner_ref(&self) -> &JobInner<K> {
        // SAFETY: By the safety requirements.
        unsafe { self.inner.assert_ref() }
    }
}

/// The mutable part of a [`Job`].
pub(super) struct JobInner<K: Kind> {
    /// Taken when it is signalled.
    pub(super) fence: Option<ArmedFence>,
    /// The result with which the fence is or will be signalled.
    pub(super) result: Result,
    /// Whether the job has its result and does not need the hardware; it only waits for the jobs
    /// before it.
    pub(super) settled: bool,
    /// Nanoseconds that it ran before it was stopped, if it will be resumed from there.
    pub(super) ran_ns: u64,
    /// The part of `ran_ns` that belongs to its current turn.
    pub(super) turn_ns: u64,
    /// Where in line its FIFO is put for it.
    pub(super) end: End,
    pub(super) lending: Lending<K>,
    dependencies: KVec<ARef<Fence>>,
    /// The number of `dependencies` that are known to have signalled.
    pub(super) met: usize,
    /// Watches one dependency after the other. Present if there are any.
    watch: Option<Watch<K>>,
}

impl<K: Kind> JobInner<K> {
    /// Returns the first dependency that is not known to have signalled.
    pub(super) fn unmet(&self) -> Option<&Fence> {
        self.dependencies.get(self.met).map(|fence| &**fence)
    }

    /// Returns whether its fence has a deadline that is near.
    pub(super) fn is_due(&self, config: &Config) -> bool {
        let deadline = self.fence.as_ref().and_then(ArmedFence::deadline);

        deadline.is_some_and(|deadline| deadline.is_within(config.near_ns))
    }

    /// Returns whether all dependencies have signalled. If not, the next one will be reported to
    /// the mailbox.
    pub(super) fn poll(&mut self) -> bool {
        let Some(watch) = &mut self.watch else {
            return true;
        };
        while let Some(fence) = self.dependencies.get(self.met) {
            // An error says that an earlier notice is still in the mailbox. When it is taken from
            // there, the job is polled again.
            if !matches!(watch.start(fence), Ok(false)) {
                return false;
            }
            self.met += 1;
        }
        true
    }
}

/// A client's jobs: one FIFO for each slot of the queue.
///
/// Dropping a context does not cancel its jobs; see [`Context::cancel`]. It may sleep: once the
/// [`JobQueue`](super::JobQueue) is gone, it also drops the jobs that have ended since, with their
/// [`Kind::Job`].
pub struct Context<K: Kind> {
    shared: Arc<Shared<K>>,
    account: Arc<Account>,
    entities: [Option<Arc<Entity<K>>>; MAX_SLOTS],
}

/// Returns the lock class of a FIFO's mutex; see `lock_classes()` for why it is not created in
/// place.
#[inline(never)]
fn order_class() -> LockClass {
    (c"JobQueue::order", static_lock_class!())
}

impl<K: Kind> Context<K> {
    /// Creates a context with a FIFO for each slot of the queue. Sleeps.
    pub(super) fn new(shared: &Arc<Shared<K>>, share: &Share, priority: Priority) -> Result<Self> {
        let account = Account::new(shared.config.max_jobs)?;
        let mut entities = [const { None }; MAX_SLOTS];
        let (order_name, order_key) = order_class();

        for (index, (entity, config)) in entities.iter_mut().zip(shared.config.slots).enumerate() {
            let home = QueueSlot::new(index).ok_or(EINVAL)?;
            let ticket = Ticket::<K>::new(GFP_KERNEL_ACCOUNT)?;
            let shared_account = account.clone();

            *entity = Some(Arc::pin_init(
                pin_init!(Entity {
                    links <- ListLinks::new(),
                    tracker <- AtomicTracker::new(),
                    lending_links <- ListLinks::new(),
                    lending_tracker <- AtomicTracker::new(),
                    order <- Mutex::new((), order_name, order_key),
                    shared: shared.clone(),
                    home,
                    priority,
                    share: share.share(),
                    account: shared_account,
                    timeline: FenceContext::with_deadlines(
                        shared.config.driver,
                        config.name,
                        &shared.deadlines,
                    ),
                    state: LockedBy::new(
                        &shared.state,
                        EntityState {
                            fifo: List::new(),
                            in_hardware: 0,
                            ticket: Some(ticket),
                            turn: None,
                            lent: [0; PRIORITIES],
                            urgent: 0,
                            sweeps: 0,
                        },
                    ),
                }),
                GFP_KERNEL_ACCOUNT,
            )?);
        }
        let context = Self {
            shared: shared.clone(),
            account,
            entities,
        };
        for entity in context.entities() {
            let node = RBTreeNode::new(entity.timeline.id(), entity.clone(), GFP_KERNEL_ACCOUNT)?;

            // The id is unique, so this replaces nothing.
            let _ = shared.timelines.lock().insert(node);
        }
        Ok(context)
    }

    fn entity(&self, slot: QueueSlot) -> Option<&Arc<Entity<K>>> {
        self.entities[slot.index()].as_ref()
    }

    /// Returns the FIFOs.
    pub(super) fn entities(&self) -> impl Iterator<Item = &Arc<Entity<K>>> {
        self.entities.iter().flatten()
    }

    /// Waits until the context has less than [`Config::max_jobs`](super::Config::max_jobs) jobs,
    /// and takes a place for one more.
    ///
    /// Jobs count until they are dropped, so the caller must not hold anything that prevents ended
    /// jobs from being [taken](super::JobQueue::take_retired) and dropped, nor a place of the same
    /// context. Sleeps. Fails with `ECANCELED` if the context was cancelled or its jobs have hung
    /// too often, and with `ERESTARTSYS` if a signal is delivered to the task.
    pub fn admit(&self) -> Result<Place> {
        Place::new(&self.account)
    }

    /// Takes a place like [`admit`](Self::admit), but without waiting, and even if the context is
    /// closed.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn try_admit(&self) -> Option<Place> {
        Place::try_new(&self.account)
    }

    /// Returns whether no job of the context is started any more, because it was cancelled or its
    /// jobs have hung too often.
    pub fn is_closed(&self) -> bool {
        self.account.is_closed()
    }

    /// Allocates everything that a job needs until its end.
    ///
    /// May sleep. The memory is charged to the task's memory cgroup. Fails with `ENOMEM`, or with
    /// `EINVAL` if the queue has no such slot or the place belongs to another context. The job is
    /// returned with the error, so that the caller can choose when to drop it.
    pub fn prepare(
        &self,
        place: Place,
        slot: QueueSlot,
        job: K::Job,
        dependencies: Dependencies,
    ) -> Result<Prepared<'_, K>, Refused<K::Job>> {
        match self.allocate(&place, slot, dependencies) {
            Err(error) => Err(Refused { error, job }),
            Ok(parts) => {
                let Ok(job) = parts.memory.pin_init_with::<Infallible>(pin_init!(Job {
                    links <- ListLinks::new(),
                    entity: parts.entity.clone(),
                    inner: ListArcField::new(parts.inner),
                    payload: job,
                    seqno: Atomic::new(0),
                    closing: Atomic::new(false),
                    _place: place,
                }));

                Ok(Prepared {
                    entity: parts.entity,
                    job: job.into(),
                    fence: parts.fence,
                })
            }
        }
    }

    /// Implements the part of [`prepare`](Self::prepare) that can fail.
    fn allocate(
        &self,
        place: &Place,
        slot: QueueSlot,
        dependencies: Dependencies,
    ) -> Result<Parts<'_, K>> {
        let entity = self.entity(slot).ok_or(EINVAL)?;
        if !place.is_of(&self.account) {
            return Err(EINVAL);
        }
        // The FIFO already orders its own jobs.
        let dependencies = dependencies.without(entity.timeline.id());
        let watch = if dependencies.is_empty() {
            None
        } else {
            Some(Watch::new(
                self.shared.mailbox.clone(),
                entity.clone(),
                GFP_KERNEL_ACCOUNT,
            )?)
        };
        let mut blockers = KVec::new();
        for fence in &dependencies {
            let blocker = self.shared.timelines.lock().get(&fence.context()).cloned();

            if let Some(entity) = blocker {
                let seqno = fence.seqno();
                blockers.push(Blocker { entity, seqno }, GFP_KERNEL_ACCOUNT)?;
            }
        }
        let fence = FenceAlloc::new(GFP_KERNEL_ACCOUNT)?;

        Ok(Parts {
            entity,
            memory: UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?,
            inner: JobInner {
                fence: None,
                result: Ok(()),
                settled: false,
                ran_ns: 0,
                turn_ns: 0,
                end: End::Fair,
                lending: Lending::new(blockers),
                dependencies,
                met: 0,
                watch,
            },
            fence,
        })
    }

    /// Fails all jobs that have not started, and all that are pushed later, with `ECANCELED`.
    ///
    /// Jobs in the hardware continue; the fences of the others signal after theirs, but none here:
    /// the owner is asked to ([`Kind::kick`]) unless the queue is dead. Process context; no sleep.
    pub fn cancel(&self) {
        let _signalling = Signalling::begin();
        let mut state = self.shared.state.lock();

        self.account.close();
        for entity in self.entities() {
            state.cancel(entity);
        }
        self.shared.deliver(state, Deliver::Nothing);
    }

    /// Cancels the context like [`cancel`](Self::cancel), and stops the jobs that are in the
    /// hardware.
    ///
    /// Does not wait for their end, which is reported like that of any other job.
    pub fn cancel_running<O: SlotOps<K> + ?Sized>(&self, ops: &O) {
        let _signalling = Signalling::begin();

        self.shared.enter(ops, Deliver::Nothing, |state, shared| {
            self.account.close();
            for entity in self.entities() {
                state.cancel(entity);
                state.stop(shared, ops, entity);
            }
        });
    }
}

impl<K: Kind> Drop for Context<K> {
    fn drop(&mut self) {
        for entity in self.entities() {
            let node = self
                .shared
                .timelines
                .lock()
                .remove_node(&entity.timeline.id());
            // Dropped with the lock released.
            drop(node);
        }
        // After the owner's end, nothing else drops jobs that were pushed since.
        self.shared.drain_orphans();
    }
}

/// The allocations for a job.
struct Parts<'c, K: Kind> {
    entity: &'c Arc<Entity<K>>,
    memory: UniqueArc<MaybeUninit<Job<K>>>,
    inner: JobInner<K>,
    fence: FenceAlloc,
}

/// A job that [`Context::prepare`] could not prepare.
#[derive(Debug)]
pub struct Refused<J> {
    /// The reason.
    pub error: Error,
    /// Returns the job.
    pub job: J,
}

impl<J> From<Refused<J>> for Error {
    fn from(refused: Refused<J>) -> Self {
        refused.error
    }
}

/// A job that is ready to be armed.
///
/// Dropping it drops the job and has no other effect.
#[must_use = "the job is dropped if it is not armed and pushed"]
pub struct Prepared<'c, K: Kind> {
    entity: &'c Arc<Entity<K>>,
    job: ListArc<Job<K>>,
    fence: FenceAlloc,
}

impl<'c, K: Kind> Prepared<'c, K> {
    /// Returns the job.
    pub fn job(&self) -> &K::Job {
        &self.job.payload
    }

    /// Arms the job's fence. This is the point of no return.
    ///
    /// Waits for tasks that are between arming and pushing in the same context and slot. The task
    /// must not have another [`Armed`] job, or two tasks could deadlock.
    pub fn arm(self) -> Armed<'c, K> {
        let order = self.entity.order.lock();
        let signalling = Signalling::begin();
        let armed = self.fence.arm(&self.entity.timeline);

        Armed {
            fence: ARef::from(armed.fence()),
            pending: Some((self.job, armed)),
            entity: self.entity,
            _signalling: signalling,
            _order: order,
        }
    }
}

/// A job whose fence may be published. It must be pushed.
///
/// Dropping it has the effect of pushing it to a cancelled context, for this job alone.
#[must_use = "an armed job has to be pushed"]
pub struct Armed<'c, K: Kind> {
    /// Taken by `push` or `drop`.
    pending: Option<(ListArc<Job<K>>, ArmedFence)>,
    fence: ARef<Fence>,
    entity: &'c Arc<Entity<K>>,
    // Dropped in this order: the section ends before the mutex is released.
    _signalling: Signalling,
    _order: MutexGuard<'c, ()>,
}

impl<K: Kind> Armed<'_, K> {
    /// Returns the fence that signals when the job has ended.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Queues the job and, if it can run at once, hands it to the hardware.
    pub fn push<O: SlotOps<K> + ?Sized>(mut self, ops: &O) {
        if let Some((mut job, fence)) = self.pending.take() {
            job.seqno.store(fence.fence().seqno(), Relaxed);
            job.inner().fence = Some(fence);
            self.entity.shared.enter(ops, Deliver::Nothing, |state, _| {
                state.push(self.entity, job);
            });
        }
    }
}

impl<K: Kind> Drop for Armed<'_, K> {
    fn drop(&mut self) {
        if let Some((mut job, fence)) = self.pending.take() {
            let shared = &self.entity.shared;
            job.seqno.store(fence.fence().seqno(), Relaxed);
            let inner = job.inner();

            inner.fence = Some(fence);
            inner.settle(Err(CANCELLED));

            let mut state = shared.state.lock();
            state.push(self.entity, job);
            shared.deliver(state, Deliver::Nothing);
            // The jobs behind it cannot be started here, without access to the hardware.
            shared.kind().kick();
        }
    }
}

impl<K: Kind> JobInner<K> {
    /// Sets the job's result, unless it has one. It does not need the hardware any more.
    pub(super) fn settle(&mut self, result: Result) {
        if !self.settled {
            self.result = result;
            self.settled = true;
        }
    }
}
