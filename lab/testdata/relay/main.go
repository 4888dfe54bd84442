// Command relay connects whoever comes to LISTEN with REMOTE, from the address
// LOCAL: relay LISTEN LOCAL REMOTE.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(os.Args[2])}}
	for {
		in, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() { // ends when both sides have closed
			defer in.Close()
			out, err := dialer.Dial("tcp", os.Args[3])
			if err != nil {
				log.Print(err)
				return
			}
			defer out.Close()
			go func() { // ends with the connection
				_, _ = io.Copy(out, in)
				_ = out.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}
