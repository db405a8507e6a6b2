//! The person's side of a session: what is typed here, and what is shown.

use std::io;

use bytes::Bytes;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    detach::{DetachKeys, Recognizer},
    stdio::{Input, Output},
    terminal::{self, RawTerminal},
};
use crate::model::TerminalSize;

/// Ctrl-D: what ends the input of a program in a terminal at the beginning of a line.
const END_OF_TRANSMISSION: u8 = 4;

/// Standard streams and terminal of this process, connected to a program elsewhere. Outlives a session, so that another
/// one can go on. Dropped, the terminal has its modes again.
#[derive(Debug)]
pub(super) struct Console {
    input: Option<Input>,
    output: Output,
    terminal: Option<Terminal>,
    /// The last byte that was typed into the program's terminal.
    last: u8,
}

/// The terminal of a program, as it is on this side.
#[derive(Debug)]
struct Terminal {
    keys: Recognizer,
    resized: Signal,
    /// `None` when this side has none, or nothing is typed into it.
    raw: Option<RawTerminal>,
}

/// What the program is to be given.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Typed {
    Stdin(Bytes),
    StdinEnded,
    Resized,
    /// Nothing more: the keys that detach were typed.
    Detached,
}

impl Console {
    /// Connects standard input if `interactive`, and the terminal if the program has one.
    pub(super) fn open(interactive: bool, tty: bool, keys: DetachKeys) -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let is_terminal = rustix::termios::isatty(stdin);
        let terminal = if tty {
            if interactive && !is_terminal {
                eprintln!(
                    "pintle: standard input is not a terminal; the program's is typed into all the same"
                );
            }
            let raw = (interactive && is_terminal).then(|| RawTerminal::enter(stdin)).transpose()?;
            // What is piped in may hold any bytes.
            let keys = if raw.is_some() { keys } else { DetachKeys::none() };
            Some(Terminal { keys: Recognizer::new(keys), resized: signal(SignalKind::window_change())?, raw })
        } else {
            None
        };
        let input = interactive.then(Input::start).transpose()?;
        Ok(Self { input, output: Output::start()?, terminal, last: b'\n' })
    }

    /// How many pieces of output came so far.
    pub(super) fn shown(&self) -> u64 {
        self.output.count()
    }

    /// Says something to the person, between what the program says.
    pub(super) fn say(&self, text: &str) {
        let end =
            if self.terminal.as_ref().is_some_and(|terminal| terminal.raw.is_some()) { "\r\n" } else { "\n" };
        eprint!("pintle: {text}{end}");
    }

    /// Gives the terminal its modes again and waits until all output is written.
    ///
    /// # Errors
    /// As write(2).
    pub(super) async fn close(self) -> io::Result<()> {
        let Self { input, output, terminal, .. } = self;
        drop(input);
        let written = output.finish().await;
        drop(terminal);
        written
    }
}

/// The half of a console that hears, apart from its output.
#[derive(Debug)]
pub(super) struct Hearing<'c> {
    input: &'c mut Option<Input>,
    terminal: &'c mut Option<Terminal>,
    last: &'c mut u8,
}

impl Console {
    /// Both directions, each for a task of its own.
    pub(super) fn split(&mut self) -> (Hearing<'_>, &Output) {
        let Self { input, output, terminal, last } = self;
        (Hearing { input, terminal, last }, output)
    }
}

impl Hearing<'_> {
    /// The size of this terminal, if the program has one too.
    pub(super) fn size(&self) -> Option<TerminalSize> {
        self.terminal.as_ref()?;
        terminal::size(rustix::stdio::stdin()).or_else(|| terminal::size(rustix::stdio::stdout()))
    }

    /// Waits for what the program is to be given next; for ever when nothing can come.
    pub(super) async fn next(&mut self) -> Typed {
        loop {
            let resized = async {
                match &mut *self.terminal {
                    Some(terminal) => terminal.resized.recv().await,
                    None => std::future::pending().await,
                }
            };
            let typed = async {
                match &mut *self.input {
                    Some(input) => input.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = resized => return Typed::Resized,
                bytes = typed => match bytes {
                    Some(bytes) => if let Some(typed) = self.recognize(bytes) { return typed },
                    None => return self.ended(),
                },
            }
        }
    }

    fn recognize(&mut self, bytes: Bytes) -> Option<Typed> {
        let bytes = match &mut *self.terminal {
            Some(terminal) => {
                let (bytes, detached) = terminal.keys.take(&bytes);
                if detached {
                    return Some(Typed::Detached);
                }
                Bytes::from(bytes)
            }
            None => bytes,
        };
        *self.last = *bytes.last()?;
        Some(Typed::Stdin(bytes))
    }

    /// The input has ended. A terminal has no end of input, but the key for it.
    fn ended(&mut self) -> Typed {
        *self.input = None;
        match &*self.terminal {
            None => Typed::StdinEnded,
            Some(_) if *self.last == b'\n' => Typed::Stdin(Bytes::from_static(&[END_OF_TRANSMISSION])),
            // The first ends the line, without its newline.
            Some(_) => Typed::Stdin(Bytes::from_static(&[END_OF_TRANSMISSION; 2])),
        }
    }
}
