// Command streams is a client of one streaming URL, on client-go's own packages: what kubectl and the kubelet link.
//
//	streams exec|attach spdy|websocket|fallback URL [-i] [-t WIDTHxHEIGHT]
//	streams forward     spdy|websocket|fallback URL LOCAL:REMOTE...
//
// "fallback" offers a WebSocket protocol that no server knows first, and takes SPDY when that is refused. The exit
// code is the command's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "streams:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) < 3 {
		return 2, errors.New("usage: exec|attach|forward spdy|websocket|fallback URL ...")
	}
	target, err := url.Parse(args[2])
	if err != nil {
		return 2, err
	}
	if args[0] == "forward" {
		return forward(args[1], target, args[3:])
	}
	return command(args[1], target, args[3:])
}

func command(transport string, target *url.URL, flags []string) (int, error) {
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr}
	for n := 0; n < len(flags); n++ {
		switch flags[n] {
		case "-i":
			options.Stdin = os.Stdin
		case "-t":
			n++
			size := remotecommand.TerminalSize{}
			if n == len(flags) {
				return 2, errors.New("-t needs a size")
			}
			if _, err := fmt.Sscanf(flags[n], "%dx%d", &size.Width, &size.Height); err != nil {
				return 2, err
			}
			options.Tty, options.Stderr, options.TerminalSizeQueue = true, nil, &once{size: &size}
		}
	}
	executor, err := executor(transport, target)
	if err != nil {
		return 2, err
	}
	err = executor.StreamWithContext(context.Background(), options)
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// once says a size and nothing more.
type once struct{ size *remotecommand.TerminalSize }

func (o *once) Next() *remotecommand.TerminalSize {
	size := o.size
	o.size = nil
	if size == nil {
		select {}
	}
	return size
}

func executor(transport string, target *url.URL) (remotecommand.Executor, error) {
	config := &rest.Config{}
	switch transport {
	case "spdy":
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	case "websocket":
		return remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	case "fallback":
		first, err := remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, target.String(), "v9.channel.k8s.io")
		if err != nil {
			return nil, err
		}
		second, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewFallbackExecutor(first, second, func(error) bool { return true })
	}
	return nil, fmt.Errorf("no transport %q", transport)
}

func forward(transport string, target *url.URL, ports []string) (int, error) {
	config := &rest.Config{}
	roundTripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return 2, err
	}
	var dialer httpstream.Dialer = spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, target)
	if transport != "spdy" {
		tunnel, err := portforward.NewSPDYOverWebsocketDialer(target, config)
		if err != nil {
			return 2, err
		}
		if transport == "fallback" {
			tunnel = portforward.NewFallbackDialer(tunnel, dialer, httpstream.IsUpgradeFailure)
		}
		dialer = tunnel
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, stop, ready, os.Stdout, os.Stderr)
	if err != nil {
		return 2, err
	}
	go func() {
		// Its end is that of its input.
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	if err := forwarder.ForwardPorts(); err != nil {
		return 1, err
	}
	return 0, nil
}
