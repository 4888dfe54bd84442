package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// mostNamed is how many disks are named while they are wiped.
const mostNamed = 3

// tellEvery is how often the progress of wiping is told.
const tellEvery = time.Second

// errNotWiped is behind the error of a step whose disks cannot be wiped. The
// next try is the next boot's: what a disk refused now it will refuse again.
var errNotWiped = errors.New("a disk is not clean")

// wipeDisks erases the disks that the control plane named, all at once, and
// hands in the proof of each as it comes.
func (a *Agent) wipeDisks(ctx context.Context) error {
	todo, err := a.dirty()
	if err != nil {
		return err
	}
	var group sync.WaitGroup // each ends with its disk, and all before we return
	defer group.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	began, done, ended := time.Now(), &shares{of: map[string]float64{}}, make(chan *ingotv1.Wipe, len(todo))
	for _, d := range todo {
		done.set(d.GetName(), 0)
		group.Go(func() { ended <- Wipe(ctx, d, func(part float64) { done.set(d.GetName(), part) }) })
	}
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	var failed []error
	for range todo {
		for w := (*ingotv1.Wipe)(nil); w == nil; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case w = <-ended:
			case <-tick.C:
				part, names := done.state()
				a.progress(ctx, ingotv1.AgentStep_AGENT_STEP_WIPE, int(100*part), left(began, part), "wiping "+names)
				if err := a.refresh(ctx, began); err != nil {
					a.cfg.Log.Warn("the token is not refreshed", "error", err)
				}
				continue
			}
			done.set(w.GetDisk().GetName(), 1)
			w.Uuid, w.BootId, w.AgentVersion = a.uuid, a.bootID, a.cfg.Version
			a.wipes = append(a.wipes, w)
			a.cfg.Log.Info("disk wiped", "disk", w.GetDisk().GetName(), "method", w.GetMethod(), "tried", len(w.GetTries()), "error", w.GetError(),
				"took", w.GetEnd().AsTime().Sub(w.GetStart().AsTime()).Round(time.Millisecond))
			if w.GetError() != "" {
				failed = append(failed, errors.New(w.GetError()))
			}
		}
	}
	if err := a.proveWipes(ctx); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fault.Wrap(fault.Unavailable, "machine "+a.uuid, errNotWiped.Error(), errors.Join(errNotWiped, errors.Join(failed...)))
	}
	return nil
}

// dirty returns the disks that are not wiped yet, after the proofs that nobody
// took yet were handed in.
func (a *Agent) dirty() ([]*ingotv1.Disk, error) {
	var todo []*ingotv1.Disk
	for _, name := range a.wipe {
		i := slices.IndexFunc(a.disks, func(d *ingotv1.Disk) bool { return d.GetName() == name })
		if i < 0 {
			return nil, fault.New(fault.Invalid, "disk "+name, "shall be wiped, but is not there", "reboot")
		}
		clean := func(w *ingotv1.Wipe) bool {
			return w.GetDisk().GetName() == name && w.GetResult() == ingotv1.WipeResult_WIPE_RESULT_DONE
		}
		if !slices.ContainsFunc(a.wipes, clean) {
			todo = append(todo, a.disks[i])
		}
	}
	return todo, nil
}

// proveWipes hands in what nobody took yet.
func (a *Agent) proveWipes(ctx context.Context) error {
	for ; a.proven < len(a.wipes); a.proven++ {
		w := a.wipes[a.proven]
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := a.api.agent.Wiped(ctx, connect.NewRequest(&ingotv1.AgentServiceWipedRequest{Uuid: a.uuid, BootId: a.bootID, Wipe: w}))
		cancel()
		if err != nil {
			return fault.Wrap(fault.Unavailable, "disk "+w.GetDisk().GetName(), "is wiped, but the control plane did not take the proof", err)
		}
	}
	return nil
}

// shares is how far each disk is.
type shares struct {
	mu sync.Mutex
	of map[string]float64
}

func (s *shares) set(name string, part float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[name] = part
}

// state returns the part of all, and names the disks that are not done.
func (s *shares) state() (part float64, names string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var open []string
	for _, name := range slices.Sorted(maps.Keys(s.of)) {
		part += s.of[name] / float64(len(s.of))
		if s.of[name] < 1 {
			open = append(open, name)
		}
	}
	if len(open) > mostNamed {
		open = append(open[:mostNamed], fmt.Sprintf("and %d more", len(open)-mostNamed))
	}
	return part, strings.Join(open, ", ")
}

// left estimates the time left from the time taken and the part done.
func left(start time.Time, done float64) time.Duration {
	if done <= 0 {
		return 0
	}
	return time.Duration(float64(time.Since(start)) * (1 - done) / done).Round(time.Second)
}

// A device is a disk that is being wiped.
type device struct {
	f        *os.File
	size     int64
	name     string
	progress func(float64)
}

// A way is one method to erase a disk.
type way struct {
	method ingotv1.WipeMethod
	// cannot says why this disk cannot do it; empty if it can.
	cannot string
	// zeroes promises that every block reads as zeroes afterwards.
	zeroes bool
	erase  func(context.Context, *device) error
}

// Wipe erases a disk by the strongest method that it supports and that proves
// to work: whatever is tried is verified, and what is not verified is not
// claimed. Nothing of what was on the disk can be read through the kernel
// afterwards, and its first and last MiB are zeroes. Progress is told with the
// part that is done. The result says what happened, in success as in failure.
func Wipe(ctx context.Context, d *ingotv1.Disk, progress func(float64)) *ingotv1.Wipe {
	return wipeDevice(ctx, "/dev/"+d.GetName(), d, progress)
}

func wipeDevice(ctx context.Context, file string, d *ingotv1.Disk, progress func(float64)) *ingotv1.Wipe {
	w := &ingotv1.Wipe{Disk: d, Result: ingotv1.WipeResult_WIPE_RESULT_DONE, Start: timestamppb.Now()}
	err := func() error {
		f, err := os.OpenFile(file, os.O_RDWR|unix.O_EXCL, 0)
		if err != nil {
			return fault.Wrap(fault.Unavailable, diskObject(d), "cannot be opened for wiping", err).Do("reboot; if that does not help, replace the disk")
		}
		defer f.Close()
		t := &device{f: f, name: path.Base(file), progress: progress}
		if t.size, err = f.Seek(0, io.SeekEnd); err != nil || t.size == 0 {
			return fault.Wrap(fault.Unavailable, diskObject(d), "has no size", err).Do("replace the disk")
		}
		return wipe(ctx, w, t, ways)
	}()
	w.End = timestamppb.Now()
	if err != nil {
		w.Result, w.Method, w.Check = ingotv1.WipeResult_WIPE_RESULT_FAILED, 0, nil
		w.Error = shorten(err.Error(), 1024)
	}
	return w
}

// ways returns the methods for a disk, strongest first. What an earlier boot
// left behind, a sanitize that runs or a lock of ours, is ended before.
func ways(ctx context.Context, t *device) ([]way, error) {
	out := []way{
		{ingotv1.WipeMethod_WIPE_METHOD_DISCARD, "", true, discard},
		{ingotv1.WipeMethod_WIPE_METHOD_OVERWRITE, "", true, overwrite},
	}
	var own []way
	var err error
	switch {
	case strings.HasPrefix(t.name, "nvme"):
		own, err = nvmeWays(ctx, t)
	case line(rootFS, path.Join("sys/block", t.name, "device/vendor")) == "ATA":
		own, err = ataWays(ctx, t)
	}
	return append(own, out...), err
}

// wipe tries one way after the other until one proves to have worked.
func wipe(ctx context.Context, w *ingotv1.Wipe, t *device, find func(context.Context, *device) ([]way, error)) error {
	all, err := find(ctx, t)
	if err != nil {
		return fault.Wrap(fault.Unavailable, diskObject(w.GetDisk()), "cannot be wiped", err).Do("replace the disk")
	}
	last := errors.New("it knows no method")
	for _, way := range all {
		if way.cannot != "" {
			w.Tries = append(w.Tries, &ingotv1.WipeTry{Method: way.method, Reason: shorten(way.cannot, 256)})
			continue
		}
		began := time.Now()
		check, err := try(ctx, t, way)
		if err == nil {
			w.Method, w.Check = way.method, check
			// The kernel forgets the partitions that are gone.
			_ = unix.IoctlSetInt(int(t.f.Fd()), unix.BLKRRPART, 0)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		last = fmt.Errorf("%s: %w", nameOf(way.method.String(), "WIPE_METHOD_"), err)
		w.Tries = append(w.Tries, &ingotv1.WipeTry{Method: way.method, Reason: shorten(err.Error(), 256), Took: durationpb.New(time.Since(began))})
	}
	return fault.Wrap(fault.Unavailable, diskObject(w.GetDisk()), "cannot be wiped", last).Do("replace the disk")
}

// try erases a disk one way: marks, erases, looks, zeroes the edges, looks
// again.
func try(ctx context.Context, t *device, way way) (*ingotv1.WipeCheck, error) {
	marks, err := mark(t)
	if err != nil {
		return nil, fmt.Errorf("before it began: %w", err)
	}
	if err := way.erase(ctx, t); err != nil {
		return nil, err
	}
	check, err := marks.gone(t, way.zeroes)
	if err != nil {
		return nil, err
	}
	check.EdgeBytes, err = zeroEdges(t)
	return check, err
}

// diskObject names a disk for people: what the kernel calls it, and what is
// printed on it.
func diskObject(d *ingotv1.Disk) string {
	if d.GetSerial() == "" {
		return "disk " + d.GetName()
	}
	return "disk " + d.GetName() + " (serial " + d.GetSerial() + ")"
}

// shorten cuts a text to the contract's limit.
func shorten(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }
