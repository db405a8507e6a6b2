//! The daemon is killed again and again while pods come and go, and nobody who asks patiently can tell.
//!
//! Several clients lead pods through their lives, repeating every call that a death interrupted until it
//! succeeds, as a kubelet does. Meanwhile the daemon is killed at random moments, now and then while it is
//! still starting. After each death, and at the end, what was true before must still be.
//!
//! `PINTLE_E2E_KILLS` is how many deaths, `PINTLE_E2E_SEED` repeats a run's chances, `PINTLE_E2E_FIGURES` names
//! a file for the figures.
//!
//! `world.rs` is what is known and promised, `client.rs` leads the pods, `killer.rs` kills and looks.

mod client;
mod killer;
mod world;

use std::{
    env, fs,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Instant, SystemTime},
};

use killer::{Residents, TRACE};
use world::{World, lock};

use crate::harness::{BUSYBOX, Node, Setup, chance::Chance, figures, runner::tests};

tests![random_kills_under_churn_lose_nothing];

/// Deaths where nobody asked for more: a quarter of a minute of dying.
const KILLS: u32 = 15;

/// Clients at once, on machines of two cores.
const CLIENTS: u64 = 3;

fn random_kills_under_churn_lose_nothing() {
    let kills = setting("PINTLE_E2E_KILLS").unwrap_or(u64::from(KILLS));
    let seed = setting("PINTLE_E2E_SEED").unwrap_or_else(seed_of_the_clock);
    println!("churn: {kills} kills, PINTLE_E2E_SEED={seed}");
    let started = Instant::now();
    let node = Node::start();
    fs::write(node.path(TRACE), "").unwrap();
    node.kill_daemon();
    node.start_daemon_with(&Setup { trace: Some(node.path(TRACE)), ..Setup::default() });
    let world = World::new(&node);
    node.pull(BUSYBOX);
    let residents = Residents::new(&world);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let world = &world;
            scope.spawn(move || world.lead_lives(client, Chance::new(seed ^ ((client + 1) << 32))));
        }
        scope.spawn(|| world.come_and_go_of_an_image());
        world.kill_again_and_again(kills, Chance::new(seed), &residents);
        world.over.store(true, Relaxed);
    });
    world.note(residents.end(&world));
    let broken = lock(&world.broken).clone();
    if broken.is_empty() {
        node.assert_clean();
    }
    figures::keep(&world.figures(seed, started.elapsed(), broken.len()));
    assert_eq!(broken, [""; 0], "PINTLE_E2E_SEED={seed}");
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn seed_of_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap_or(1)
}
