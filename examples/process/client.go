// A co-process for Lapwing's handler of kind `process`. Copy it, and write your own `handle`.
package main

import (
	"bufio"
	"encoding/json"
	"os"
)

type message struct { // docs/process-protocol.md has all keys
	ID     int64  `json:"id"`
	Text   string `json:"body"`
	Binary []byte `json:"body_base64"`
}

// outcome is succeeded, retry, permanent or unavailable.
func handle(m message, body []byte) (outcome, reason string) {
	var order struct{ Cents int64 }
	if err := json.Unmarshal(body, &order); err != nil {
		return "permanent", err.Error()
	} else if order.Cents < 0 {
		return "permanent", "negative price"
	}
	return "succeeded", ""
}

func main() {
	in, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr // prints go to the worker's log
	out.Encode(map[string]int{"ready": 1})
	for line, err := in.ReadBytes('\n'); err == nil; line, err = in.ReadBytes('\n') {
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			panic(err)
		}
		outcome, reason := handle(m, append(m.Binary, m.Text...))
		out.Encode(map[string]any{"id": m.ID, "outcome": outcome, "error": reason})
	}
}
