// Command wiper is /init of a guest that wipes its disks as the agent does, says
// how, one line of JSON per disk, and powers off.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ingot-cloud/ingot/agent"
)

func main() {
	agent.Prepare(slog.New(slog.NewTextHandler(os.Stdout, nil)))
	if err := wipe(); err != nil {
		fmt.Println("wiper:", err)
	}
	fmt.Println("wiper: done")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("wiper:", err)
	}
}

func wipe() error {
	inventory, err := agent.Look(os.DirFS("/"))
	if err != nil {
		return err
	}
	var group sync.WaitGroup // all end before we return
	var mu sync.Mutex        // one line at a time
	for _, d := range inventory.GetDisks() {
		group.Go(func() {
			w := agent.Wipe(context.Background(), d, func(float64) {})
			mu.Lock()
			defer mu.Unlock()
			b, err := protojson.Marshal(w)
			fmt.Printf("wiped %s %v\n", b, err)
		})
	}
	group.Wait()
	return nil
}
