package boot

import (
	"encoding/binary"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// serveTime answers clients from the switch's clock (RFC 5905, RFC 4330): a
// server whose clock is years off needs the time before it can check a
// certificate.
func serveTime(c net.PacketConn) error {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		if answer := answerTime(buf[:n], time.Now(), synchronized()); answer != nil {
			_, _ = c.WriteTo(answer, from)
		}
	}
}

const (
	ntpSize = 48
	// ntpEpoch is 1970 in NTP's count of seconds from 1900.
	ntpEpoch = 2208988800

	modeClient, modeServer = 3, 4
	// A synchronised switch counts as two hops from a reference. One that is
	// not answers as a free-running clock; that is better than none.
	stratumSynchronized, stratumLocal = 3, 10
)

// answerTime returns the answer to a client's request, nil to anything else.
func answerTime(request []byte, now time.Time, synchronized bool) []byte {
	if len(request) < ntpSize || request[0]&7 != modeClient {
		return nil
	}
	version := request[0] >> 3 & 7
	if version < 1 || version > 4 {
		return nil
	}
	b := make([]byte, ntpSize)
	b[0] = version<<3 | modeServer
	b[1] = stratumLocal
	copy(b[12:], "LOCL")
	if synchronized {
		b[1] = stratumSynchronized
		copy(b[12:], []byte{127, 127, 1, 0}) // the reference is one step further
	}
	b[2] = request[2]                            // the client's poll interval
	b[3] = 0xec                                  // precision 2^-20 s, a microsecond
	binary.BigEndian.PutUint32(b[4:], 1<<16/100) // root delay 10 ms
	binary.BigEndian.PutUint32(b[8:], 1<<16/100) // root dispersion 10 ms
	putTime(b[16:], now.Truncate(time.Second))   // reference
	copy(b[24:32], request[40:48])               // origin: the client's transmit time
	putTime(b[32:], now)                         // receive
	putTime(b[40:], now)                         // transmit
	return b
}

// putTime writes a timestamp: seconds from 1900 and their fraction.
func putTime(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+ntpEpoch))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// synchronized reports whether the kernel's clock is kept by somebody.
func synchronized() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR
}
