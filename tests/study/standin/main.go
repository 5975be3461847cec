// A runtime as Go programs are since 1.24: it listens over MPTCP, keeps connections in a pool, and contacts
// what Ollama does, by the same paths. Its answers are made up; what it sends is not.
//
//	OLLAMA_HOST=127.0.0.1:11434 OLLAMA_NO_CLOUD=1 ./ollama serve
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

const (
	cloud    = "https://ollama.com"
	registry = "https://registry.ollama.ai/v2/library/"
)

type asked struct {
	Model string `json:"model"`
}

type manifest struct {
	Layers []struct {
		Digest string `json:"digest"`
	} `json:"layers"`
}

// fetch returns the body of a URL, after redirects.
func fetch(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// pull fetches a model's manifest and its layers, and keeps nothing.
func pull(model string) error {
	name, tag, _ := strings.Cut(model, ":")
	raw, err := fetch(registry + name + "/manifests/" + tag)
	if err != nil {
		return err
	}
	var parts manifest
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	for _, layer := range parts.Layers {
		if _, err := fetch(registry + name + "/blobs/" + layer.Digest); err != nil {
			return err
		}
	}
	return nil
}

// quiet tells whether the user has switched the cloud off.
var quiet = os.Getenv("OLLAMA_NO_CLOUD") != ""

// prompt answers by itself, or has the cloud answer for a model of its, unless that is off.
func prompt(answer http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	var wanted asked
	_ = json.Unmarshal(body, &wanted)
	if !strings.HasSuffix(wanted.Model, "cloud") {
		fmt.Fprintln(answer, `{"response":"six, seven, eight","done":true}`)
		return
	}
	if quiet {
		http.Error(answer, "ollama cloud is disabled", http.StatusForbidden)
		return
	}
	there, err := http.Post(cloud+request.URL.Path, "application/json", bytes.NewReader(body))
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Body.Close()
	_, _ = io.Copy(answer, there.Body)
}

func main() {
	http.HandleFunc("GET /api/version", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, `{"version":"0.0.0-standin"}`)
	})
	http.HandleFunc("GET /api/status", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(answer, `{"cloud":{"disabled":%t,"source":"env"}}`, quiet)
	})
	http.HandleFunc("POST /api/pull", func(answer http.ResponseWriter, request *http.Request) {
		var wanted asked
		_ = json.NewDecoder(request.Body).Decode(&wanted)
		if err := pull(wanted.Model); err != nil {
			http.Error(answer, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintln(answer, `{"status":"success"}`)
	})
	http.HandleFunc("POST /api/generate", prompt)
	http.HandleFunc("POST /api/chat", prompt)
	settings := net.ListenConfig{}
	settings.SetMultipathTCP(true) // the default since Go 1.24
	listener, err := settings.Listen(context.Background(), "tcp", os.Getenv("OLLAMA_HOST"))
	if err != nil {
		log.Fatal(err)
	}
	if !quiet {
		go func() {
			if _, err := fetch(cloud + "/api/experimental/model-recommendations"); err != nil {
				log.Print(err)
			}
		}()
	}
	log.Fatal(http.Serve(listener, nil))
}
