//! The command line: what may be typed, and which function answers.

use std::{env, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use super::{
    attach, check, config,
    detach::DetachKeys,
    exec,
    exit::Exit,
    image, logs, network,
    place::Place,
    run::{self, Network},
    say::say,
    serve, tls,
};
use crate::{launcher, supervisor, telemetry};

/// Runs the command that `argv` names.
pub fn main() -> ExitCode {
    telemetry::read_failpoints();
    // Before clap: these processes are kept small, one of them for each pod.
    match env::args_os().nth(1) {
        Some(name) if name == "zygote" => return supervisor::zygote_main(),
        Some(name) if name == "anchor" => return supervisor::anchor_main(),
        Some(name) if name == "probe-users" => return launcher::probe_users_main(),
        _ => {}
    }
    match Line::try_parse() {
        Ok(line) => line.command.run().into(),
        Err(error) => {
            // Help and version are "errors" that go to stdout; a closed pipe is nobody's problem.
            let _printed = error.print();
            if error.use_stderr() { Exit::USAGE.into() } else { ExitCode::SUCCESS }
        }
    }
}

#[derive(Debug, Parser)]
#[command(name = "pintle", version, about, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the Kubernetes CRI until SIGTERM; pods go on running
    Serve {
        #[command(flatten)]
        place: Place,
        /// error, warn, info, debug or trace; or per room. Also PINTLE_LOG
        #[arg(long, value_name = "LEVEL")]
        log_level: Option<String>,
    },
    /// Run one container in a pod of its own, show its output, and remove both
    Run {
        #[command(flatten)]
        place: Place,
        /// The pod's network
        #[arg(long, value_enum, default_value_t = Network::Pod)]
        network: Network,
        /// Give the container what is typed or piped in
        #[arg(short, long)]
        interactive: bool,
        /// Give the container a terminal
        #[arg(short, long)]
        tty: bool,
        #[command(flatten)]
        detach: Detach,
        #[command(flatten)]
        tls: tls::Files,
        /// What to run; pulled when it is not here
        image: String,
        /// Instead of the image's own command; its entrypoint stays
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run a command in a running container, and end with its exit code
    Exec {
        #[command(flatten)]
        place: Place,
        /// Give the command what is typed or piped in
        #[arg(short, long)]
        interactive: bool,
        /// Give the command a terminal; it ends with it
        #[arg(short, long)]
        tty: bool,
        #[command(flatten)]
        tls: tls::Files,
        #[arg(value_name = "CONTAINER", help = CONTAINER)]
        container: String,
        /// The command, and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Connect to a container's own program, see what it writes from now on, and end with its exit code
    Attach {
        #[command(flatten)]
        place: Place,
        /// Only look on
        #[arg(long)]
        no_stdin: bool,
        #[command(flatten)]
        detach: Detach,
        #[command(flatten)]
        tls: tls::Files,
        #[arg(value_name = "CONTAINER", help = CONTAINER)]
        container: String,
    },
    /// Show what a container has written, from its log and from those rotated away
    Logs {
        #[command(flatten)]
        place: Place,
        /// Go on until the container ends
        #[arg(short, long)]
        follow: bool,
        /// Only the last N lines
        #[arg(short = 'n', long, value_name = "N")]
        tail: Option<u64>,
        /// Only lines since then: 2026-11-28T10:00:00Z (UTC without an offset), 10m ago, or seconds since 1970
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Begin each line with its time
        #[arg(short, long)]
        timestamps: bool,
        #[arg(value_name = "CONTAINER", help = CONTAINER)]
        container: String,
    },
    /// Load, list and remove images
    Image {
        #[command(subcommand)]
        command: Image,
    },
    /// Print or check the configuration
    Config {
        #[command(subcommand)]
        command: Config,
    },
    /// Undo what the built-in network has done to this host
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Say what this host can and cannot do; fails when pods could not run
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// Print what completes this command line in a shell: bash reads it with `source <(pintle completion bash)`
    Completion { shell: Shell },
    /// Print the version
    Version,
}

/// What may stand for a container.
const CONTAINER: &str =
    "ID or its beginning, NAME, POD/NAME, NAMESPACE/POD/NAME, or a POD that has one container";

/// How to leave a program in a terminal alone.
#[derive(Args, Debug)]
struct Detach {
    /// Keys that leave a container with a terminal, which goes on; empty for none
    #[arg(long = "detach-keys", value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    keys: DetachKeys,
}

#[derive(Debug, Subcommand)]
enum Image {
    /// Load archives made by `docker save`, `podman save` or as OCI layouts, packed with gzip or zstd or not
    Load {
        #[command(flatten)]
        place: Place,
        /// Name for images that the archive gives none, or only a tag; NAME or NAME:TAG
        #[arg(long, value_name = "NAME")]
        tag: Option<String>,
        /// Archives; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List images
    Ls {
        #[command(flatten)]
        place: Place,
    },
    /// Remove images with all their names
    Rm {
        #[command(flatten)]
        place: Place,
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Print every key with its meaning and default
    Default,
    /// Read the configuration as `serve` would, and say what is wrong
    Check {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Delete the bridge and the nftables table, and set forwarding back to what it was; no pod may be on the bridge
    Reset {
        #[command(flatten)]
        place: Place,
    },
}

impl Command {
    fn run(self) -> Exit {
        let done = match self {
            Self::Serve { place, log_level } => {
                serve::serve(place, log_level.or_else(|| env::var("PINTLE_LOG").ok()))
            }
            Self::Run { place, network, interactive, tty, detach, tls, image, command } => {
                let detach_keys = detach.keys;
                run::run(place, &run::Order { network, interactive, tty, detach_keys, tls, image, command })
            }
            Self::Exec { place, interactive, tty, tls, container, command } => {
                exec::exec(place, exec::Order { interactive, tty, tls, container, command })
            }
            Self::Attach { place, no_stdin, detach: Detach { keys: detach_keys }, tls, container } => {
                attach::attach(place, attach::Order { no_stdin, detach_keys, tls, container })
            }
            Self::Logs { place, follow, tail, since, timestamps, container } => {
                logs::logs(place, &logs::Order { container, follow, tail, since, timestamps })
            }
            Self::Image { command: Image::Load { place, tag, files } } => {
                image::load(place, tag.as_deref(), &files)
            }
            Self::Image { command: Image::Ls { place } } => image::list(place),
            Self::Image { command: Image::Rm { place, references } } => image::remove(place, &references),
            Self::Config { command: Config::Default } => config::default(),
            Self::Config { command: Config::Check { place } } => config::check(place),
            Self::Network { command: NetworkCommand::Reset { place } } => network::reset(place),
            Self::Check { place } => check::check(place),
            Self::Completion { shell } => say(&completion(shell)),
            Self::Version => say(&format!("pintle {}\n", env!("CARGO_PKG_VERSION"))),
        };
        done.unwrap_or_else(|exit| exit)
    }
}

/// The script that completes the command line in `shell`.
fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Line::command(), "pintle", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command as Program, Stdio},
    };

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn what_follows_the_image_is_the_command_whatever_it_looks_like() {
        let line =
            Line::try_parse_from(["pintle", "run", "--network", "host", "busybox", "ls", "--help", "-l"]);
        let Command::Run { network, image, command, .. } = line.unwrap().command else { panic!("not run") };
        assert_eq!((network, image.as_str()), (Network::Host, "busybox"));
        assert_eq!(command, ["ls", "--help", "-l"]);
        let line = Line::try_parse_from(["pintle", "exec", "-it", "web", "ls", "--help", "-t"]);
        let Command::Exec { interactive, tty, container, command, .. } = line.unwrap().command else {
            panic!("not exec")
        };
        assert_eq!((interactive, tty, container.as_str()), (true, true, "web"));
        assert_eq!(command, ["ls", "--help", "-t"]);
    }

    #[test]
    fn the_keys_that_detach_are_podmans_unless_said_otherwise() {
        let keys =
            |arguments: &[&str]| match Line::try_parse_from([&["pintle", "attach", "x"], arguments].concat())
            {
                Ok(Line { command: Command::Attach { detach, .. } }) => Ok(detach.keys),
                Ok(_) => panic!("not attach"),
                Err(error) => Err(error.to_string()),
            };
        assert_eq!(keys(&[]), Ok("ctrl-p,ctrl-q".parse().unwrap()));
        assert_eq!(keys(&["--detach-keys", ""]), Ok(DetachKeys::none()));
        assert!(keys(&["--detach-keys", "ctrl-1"]).unwrap_err().contains("is not a list of keys"));
    }

    #[test]
    fn each_shell_is_given_a_script_that_names_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell);
            for command in Line::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn bash_completes_a_command() {
        let script = completion(Shell::Bash)
            + "\nCOMP_WORDS=(pintle ex); COMP_CWORD=1; _pintle pintle ex pintle; echo \"${COMPREPLY[@]}\"\n";
        let mut bash = Program::new("bash");
        let mut bash = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(&bash.wait_with_output().unwrap().stdout), "exec\n");
    }

    #[test]
    fn an_address_that_is_not_one_is_a_usage_error() {
        let error = Line::try_parse_from(["pintle", "serve", "--listen", "tcp://0.0.0.0:1"]).unwrap_err();
        assert!(error.use_stderr());
        assert!(error.to_string().contains("is not unix:///an/absolute/path"), "{error}");
    }
}
