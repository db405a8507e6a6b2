//! Which story shows what: the check list of the streaming protocols, known holes of streaming servers, bad input.

use crate::harness::runner::tests;

tests![each_row_has_its_stories];

/// What is promised, and the stories that show it.
type Row = (&'static str, &'static [&'static str]);

/// What clients in the field need of exec, attach and port-forward.
const CHECK_LIST: [Row; 20] = [
    (
        "crictl exec: output, input to its end, exit code",
        &["streaming::exec_brings_each_stream_and_the_exit_code", "streaming::exec_that_cannot_run_says_why"],
    ),
    ("much output without WINDOW_UPDATE, both ways", &["streaming::exec_moves_much_in_both_directions"]),
    ("crictl exec -it: terminal, resize, exit code", &["streaming::exec_has_the_terminal_of_its_client"]),
    (
        "crictl attach, with and without a terminal",
        &[
            "attach::clients_see_the_same_and_the_log_has_it_too",
            "attach::a_terminal_is_shown_logged_and_resized",
        ],
    ),
    (
        "the last output of a terminal, of a container's and of an exec's",
        &["attach::a_terminal_that_ends_at_once_has_lost_nothing"],
    ),
    ("crictl port-forward", &["streaming::ports_of_a_pod_are_reached_from_outside"]),
    (
        "v5, v4, v3 offered: v4; only v9: 403 and what is accepted; none: 400",
        &["streaming::protocol::the_first_protocol_of_the_client_that_is_known_is_agreed_on"],
    ),
    (
        "a wrong token and one used twice: 404; the 1001st that is pending: ResourceExhausted",
        &["streaming::a_url_is_for_one_client_and_one_minute"],
    ),
    (
        "after a minute: 404 (in the proof, which takes longer than that)",
        &["streaming::many::many_sessions_leave_nothing_and_cost_little"],
    ),
    (
        "100 connections on one session, a refused one among them",
        &["streaming::ports::a_hundred_connections_share_a_session_and_a_refused_one_hurts_none"],
    ),
    ("half-close both ways", &["streaming::ports::each_side_of_a_connection_ends_by_itself"]),
    ("a pod on the host's network", &["streaming::ports_of_a_pod_on_the_hosts_network_are_reached"]),
    ("a listener on IPv6 alone", &["streaming::a_port_on_ipv6_alone_is_reached"]),
    (
        "the old WebSocket form of port-forward, port=",
        &["streaming::ports::an_old_websocket_client_has_two_channels_for_each_port"],
    ),
    (
        "a client that is killed in the middle: no descriptor, task or process is left",
        &[
            "streaming::a_client_that_is_killed_leaves_nothing",
            "streaming::gone::an_exec_that_does_not_read_is_left_by_a_client_that_goes",
            "streaming::gone::a_container_that_does_not_read_is_left_by_a_client_that_goes",
            "streaming::gone::a_port_that_does_not_read_is_left_by_a_client_that_goes",
            "streaming::gone::a_port_that_does_not_read_is_left_by_an_old_websocket_client_that_goes",
        ],
    ),
    (
        "what is left of an exec whose client has gone",
        &[
            "streaming::gone::a_client_that_goes_between_the_end_and_the_last_output_costs_nobody_anything",
            "streaming::gone::an_exec_without_a_terminal_outlives_its_client",
            "streaming::gone::an_exec_with_a_terminal_is_hung_up_and_ends_after_ten_seconds",
            "streaming::gone::the_process_tree_of_an_exec_ends_after_the_grace",
        ],
    ),
    ("crictl --transport websocket", &["streaming::exec_brings_each_stream_and_the_exit_code"]),
    (
        "client-go: SPDY, WebSocket, and falling back",
        &[
            "streaming::the_client_of_kubernetes_runs_commands",
            "streaming::the_client_of_kubernetes_forwards_ports",
        ],
    ),
    (
        "pintle exec, attach and run, in the clear and over TLS",
        &[
            "cli::exec::a_command_has_its_streams_and_its_exit_code",
            "cli::attach::a_person_detaches_and_the_container_goes_on",
            "cli::run::a_run_has_the_terminal_and_leaves_nothing",
            "cli::tls::exec_attach_and_run_know_the_daemon_by_its_own_certificate",
            "cli::tls::a_person_shows_a_certificate_where_one_is_wanted",
        ],
    ),
    ("critest's streaming specs", &["conformance::critest_says_what_we_expect_of_each_spec"]),
];

/// Holes that servers of streams had in public.
const HOLES: [Row; 11] = [
    ("ExecSync without end", &["exec::much_output_of_many_is_cut_and_not_held"]),
    (
        "a client with a terminal vanishes before or after a resize",
        &[
            "streaming::protocol::a_hundred_thousand_sizes_leave_the_last",
            "streaming::many::many_sessions_leave_nothing_and_cost_little",
        ],
    ),
    (
        "WebSocket frames: 2^63 bytes, 10^6 fragments, not masked, 1 GiB, a channel that cannot be",
        &["streaming::protocol::websocket_frames_of_every_wrong_kind_close_their_connection"],
    ),
    ("a flood of pings", &["streaming::protocol::a_flood_of_pings_is_answered"]),
    (
        "a head of 10 MiB, a page of another origin, no upgrade",
        &["streaming::protocol::what_is_no_upgrade_is_answered_and_the_log_says_for_whom"],
    ),
    ("a token is in no log", &["streaming::a_url_is_for_one_client_and_one_minute"]),
    (
        "only loopback is listened to, or TLS with certificates of clients",
        &[
            "streaming::protocol::nothing_but_loopback_is_listened_to",
            "streaming::tls::clients_show_and_are_shown_certificates",
            "streaming::tls::certificates_that_cannot_be_used_are_an_error_at_the_start",
        ],
    ),
    (
        "port 0, 65536, -1, 127.0.0.1:22",
        &[
            "streaming::ports::a_stream_for_a_port_that_cannot_be_is_refused",
            "streaming::a_port_forward_is_checked",
        ],
    ),
    ("exec in what is removed, a prefix, nothing", &["streaming::requests_for_streams_are_checked"]),
    ("an id with / or .. in it", &["gauntlet::g_13_ids"]),
    (
        "a message over the limit at the CRI socket",
        &["bad_input::a_message_over_the_limit_is_refused_and_the_next_is_served"],
    ),
];

/// What no client sends that means well.
const BAD_INPUT: [Row; 7] = [
    (
        "20 malformed SPDY sessions",
        &[
            "streaming::protocol::malformed_spdy_sessions_end_alone",
            "streaming::protocol::wrong_spdy_frames_of_one_stream_concern_no_other",
            "streaming::protocol::ten_thousand_streams_in_a_session_are_refused",
        ],
    ),
    ("a client that never reads", &["streaming::many::many_sessions_leave_nothing_and_cost_little"]),
    ("10,000 sessions", &["streaming::many::many_sessions_leave_nothing_and_cost_little"]),
    ("1,000 idle attach sessions", &["streaming::many::many_sessions_leave_nothing_and_cost_little"]),
    (
        "sizes of 0 x 0 and 65535 x 65535",
        &["streaming::protocol::a_terminal_has_the_sizes_that_can_be_and_no_others"],
    ),
    ("the daemon dies under 50 execs", &["streaming::fifty_execs_end_with_the_daemon"]),
    (
        "a pod is stopped under its port-forwards",
        &["streaming::a_pod_that_is_stopped_ends_its_port_forwards"],
    ),
];

fn each_row_has_its_stories() {
    let all: Vec<&str> = crate::stories().map(|story| story.short_name()).collect();
    for (row, stories) in CHECK_LIST.iter().chain(&HOLES).chain(&BAD_INPUT) {
        assert!(!stories.is_empty(), "{row}");
        let missing: Vec<_> = stories.iter().filter(|story| !all.contains(story)).collect();
        assert!(missing.is_empty(), "{row}: there is no story {missing:?}");
    }
}
