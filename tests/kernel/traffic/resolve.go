// Look a name up by Go's own resolver (GODEBUG=netdns=go) or libc's (=cgo), and connect to each address.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"syscall"
)

func main() {
	said := map[string]any{"error": ""}
	addresses := map[string]int{}
	found, err := net.DefaultResolver.LookupIPAddr(context.Background(), os.Args[1])
	if err != nil {
		said["error"] = err.Error()
	}
	for _, one := range found {
		addresses[one.String()] = 0
		stream, err := net.Dial("tcp", net.JoinHostPort(one.String(), os.Args[2]))
		if err == nil {
			stream.Close()
			continue
		}
		var number syscall.Errno
		errors.As(err, &number)
		addresses[one.String()] = int(number)
	}
	said["addresses"] = addresses
	json.NewEncoder(os.Stdout).Encode(said)
}
