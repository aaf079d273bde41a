//! SQS as a storm meets it: a standard queue, in hardly any order, with visibility timeouts, receive counts and a redrive
//! policy.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Wiring;
use super::dice::Dice;

/// A receive looks at so many messages in the order in which they became visible, and takes any of them.
const IN_VIEW: usize = 500;

/// The queue and its dead-letter queue; clones share them.
#[derive(Clone)]
pub struct Sqs(Arc<Inner>);

struct Inner {
    wiring: Wiring,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    messages: Vec<Message>,
    visible: VecDeque<usize>,
    hidden: BTreeSet<(Instant, usize)>,
    dice: Dice,
    left: usize,
    dead: usize,
    is_complete: bool,
}

struct Message {
    body: Arc<str>,
    sent: Instant,
    receives: u32,
    is_gone: bool,
    /// When it is seen again, while it is hidden.
    hidden_until: Option<Instant>,
}

/// A message in somebody's hands.
#[derive(Debug, Clone)]
pub struct Received {
    pub id: String,
    pub receipt: String,
    pub body: Arc<str>,
    pub receives: u32,
    pub age: Duration,
}

impl Sqs {
    pub fn new(wiring: Wiring, dice: Dice) -> Self {
        let state = State {
            messages: Vec::new(),
            visible: VecDeque::new(),
            hidden: BTreeSet::new(),
            dice,
            left: 0,
            dead: 0,
            is_complete: false,
        };
        Self(Arc::new(Inner { wiring, state: Mutex::new(state), changed: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub fn send(&self, body: String) {
        self.send_later(body, Duration::ZERO);
    }

    /// Sends a message that is seen after this long.
    pub fn send_later(&self, body: String, delay: Duration) {
        let mut state = self.state();
        let index = state.messages.len();
        state.messages.push(Message {
            body: body.into(),
            sent: Instant::now(),
            receives: 0,
            is_gone: false,
            hidden_until: None,
        });
        if delay.is_zero() {
            state.visible.push_back(index);
        } else {
            state.hide(index, Instant::now() + delay);
        }
        state.left += 1;
        self.0.changed.notify_waiters();
    }

    /// All that was to be sent was sent.
    pub fn no_more(&self) {
        self.state().is_complete = true;
        self.0.changed.notify_waiters();
    }

    /// Waits until the queue is empty for good.
    pub async fn drained(&self) {
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.state();
                if state.is_complete && state.left == 0 {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Waits until there is something to receive: long polling.
    pub async fn something(&self) {
        loop {
            let changed = self.0.changed.notified();
            let next = {
                let mut state = self.state();
                state.show();
                if !state.visible.is_empty() {
                    return;
                }
                state.hidden.first().map(|(at, _)| *at)
            };
            let seen_again = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = seen_again => {}
            }
        }
    }

    /// Up to so many messages. One that was received too often is a dead letter instead, and one that is too old is
    /// dropped, as SQS does, without a word; it shows as an instance without its profile.
    pub fn receive(&self, most: usize) -> Vec<Received> {
        let Wiring { max_receive_count, retention, visibility_timeout, .. } = self.0.wiring;
        let now = Instant::now();
        let mut state = self.state();
        state.show();
        let mut received = Vec::new();
        while received.len() < most && !state.visible.is_empty() {
            let in_view = state.visible.len().min(IN_VIEW);
            let place = state.dice.index(in_view);
            let Some(index) = state.visible.swap_remove_front(place) else { break };
            let message = &mut state.messages[index];
            if message.receives >= max_receive_count || now - message.sent > retention {
                let is_dead = message.receives >= max_receive_count;
                message.is_gone = true;
                state.left -= 1;
                state.dead += usize::from(is_dead);
                self.0.changed.notify_waiters();
                continue;
            }
            message.receives += 1;
            received.push(Received {
                id: format!("message-{index}"),
                receipt: format!("{index}:{}", message.receives),
                body: Arc::clone(&message.body),
                receives: message.receives,
                age: now - message.sent,
            });
            state.hide(index, now + visibility_timeout);
        }
        received
    }

    /// `ChangeMessageVisibility`; whether it was still in the hands of whoever holds this receipt.
    pub fn change_visibility(&self, receipt: &str, timeout: Duration) -> bool {
        let mut state = self.state();
        state.show();
        let Some(index) = state.in_flight(receipt) else { return false };
        // SQS counts in whole seconds.
        let timeout = Duration::from_secs_f64(timeout.as_secs_f64().ceil());
        state.hide(index, Instant::now() + timeout);
        self.0.changed.notify_waiters();
        true
    }

    /// `DeleteMessage`. A receipt that a later receive has outdated deletes nothing.
    pub fn delete(&self, receipt: &str) {
        let mut state = self.state();
        state.show();
        let Some(index) = state.in_flight(receipt) else { return };
        let message = &mut state.messages[index];
        message.is_gone = true;
        if let Some(until) = message.hidden_until.take() {
            state.hidden.remove(&(until, index));
        }
        state.left -= 1;
        self.0.changed.notify_waiters();
    }

    /// A message of the function's own to the dead-letter queue.
    pub fn give_up(&self) {
        self.state().dead += 1;
    }

    pub fn dead_letters(&self) -> usize {
        self.state().dead
    }

    pub fn left(&self) -> usize {
        self.state().left
    }

    pub fn most_receives(&self) -> u32 {
        self.state().messages.iter().map(|message| message.receives).max().unwrap_or_default()
    }
}

impl State {
    /// Makes visible what was hidden for long enough.
    fn show(&mut self) {
        let now = Instant::now();
        while let Some((at, index)) = self.hidden.first().copied()
            && at <= now
        {
            self.hidden.pop_first();
            self.messages[index].hidden_until = None;
            self.visible.push_back(index);
        }
    }

    fn hide(&mut self, index: usize, until: Instant) {
        if let Some(before) = self.messages[index].hidden_until.replace(until) {
            self.hidden.remove(&(before, index));
        }
        self.hidden.insert((until, index));
    }

    /// The message of a receipt, while it is hidden because of that very receive.
    fn in_flight(&self, receipt: &str) -> Option<usize> {
        let (index, receives) = receipt.split_once(':')?;
        let index: usize = index.parse().ok()?;
        let message = self.messages.get(index)?;
        let is_latest = receives.parse() == Ok(message.receives);
        (is_latest && message.hidden_until.is_some() && !message.is_gone).then_some(index)
    }
}
