// Command former is what a tenant may leave running on a server that is not
// its any more. It takes addresses from whichever network it finds itself in,
// tries to reach the addresses it is given as arguments, and asks metal-boot,
// the first of them, for a boot id and a token in the server's name. What
// became of it is printed, once a round.
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	uuid, err := os.ReadFile("/etc/ingot/machine")
	if err != nil {
		fmt.Println("former:", err)
		os.Exit(1)
	}
	listen()
	for round := 1; ; round++ {
		var reached []string
		for _, target := range os.Args[1:] {
			if c, err := net.DialTimeout("tcp", target, time.Second); err == nil {
				reached = append(reached, target)
				_ = c.Close()
			}
		}
		machine := strings.TrimSpace(string(uuid))
		fmt.Printf("former: round=%d reached=%s begin=%s token=%s\n", round, strings.Join(reached, ","),
			ask("Begin", map[string]any{"uuid": machine}),
			ask("Token", map[string]any{"uuid": machine, "bootId": machine, "publicKey": make([]byte, 32), "signature": make([]byte, 64)}))
		time.Sleep(time.Second)
	}
}

// listen lets every port take what router advertisements offer (sysctl
// net.ipv6.conf: 2 is also when the machine forwards).
func listen() {
	all, _ := net.Interfaces()
	for _, i := range all {
		for name, value := range map[string]string{"autoconf": "1", "accept_ra_pinfo": "1", "accept_ra_defrtr": "1", "accept_ra": "2"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+i.Name+"/"+name, []byte(value), 0); err != nil {
				fmt.Println("former:", err)
			}
		}
	}
}

// ask calls metal-boot's BootService and returns what it answered: the code of
// an error in the words of the Connect protocol, "granted", or "silence".
func ask(method string, message any) string {
	body, err := json.Marshal(message)
	if err != nil {
		panic(err) // made of strings and bytes
	}
	c := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // whoever answers will do
		DisableKeepAlives: true,
	}}
	resp, err := c.Post("https://"+os.Args[1]+"/ingot.v1.BootService/"+method, "application/json", strings.NewReader(string(body))) //nolint:noctx // it has a timeout
	if err != nil {
		return "silence"
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return "granted"
	}
	var answer struct{ Code string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return resp.Status
	}
	return answer.Code
}
