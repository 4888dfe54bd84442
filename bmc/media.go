package bmc

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/ingot-cloud/ingot/fault"
)

// openDrive reads the drive, which must be there.
func (r *Redfish) openDrive(ctx context.Context) (*driveDoc, error) {
	p := r.pass(ctx, unlimited)
	if r.drive != "" {
		if d := read[driveDoc](p, r.drive, always); d != nil {
			return d, nil
		}
	}
	system, err := p.system()
	if err != nil {
		return nil, err
	}
	d := p.drive(system, p.manager(system))
	switch {
	case p.gone != nil:
		return nil, p.gone
	case d == nil:
		return nil, fault.New(fault.Unimplemented, r.object, "has no virtual CD drive", "check the BMC's licence, or boot the server from a USB stick with the same image")
	}
	return d, nil
}

// Insert implements Loader.
func (r *Redfish) Insert(ctx context.Context, url string) error {
	ctx, cancel := bounded(ctx, loadTimeout)
	defer cancel()
	drive, err := r.openDrive(ctx)
	switch {
	case err != nil:
		return err
	case r.inserted(drive) && drive.Image == url:
		return nil
	case r.inserted(drive):
		if err := r.eject(ctx, drive); err != nil {
			return err
		}
	}
	if err := r.insert(ctx, drive, url); err != nil {
		return explain(r.object, "insert "+url, err)
	}
	// Some accept what they do not do, and some do what they do not show.
	drive, err = r.openDrive(ctx)
	switch {
	case err != nil:
		return err
	case r.inserted(drive):
		return nil
	case drive.Image == url:
		r.understates = true
		return nil
	}
	return fault.Newf(fault.Unavailable, r.object, "insert %s: was accepted, but the drive is empty", url).
		Do("check that the BMC reaches that address; its event log may tell why")
}

// insert asks for an image in the ways that BMCs understand: as the standard
// has it, with the protocol in a property of its own, and with nothing but the
// address. Those without the action take it as a change of the drive.
func (r *Redfish) insert(ctx context.Context, drive *driveDoc, url string) error {
	scheme, _, _ := strings.Cut(url, ":")
	plain := map[string]any{"Image": url, "Inserted": true, "WriteProtected": true}
	var err error
	for _, body := range []map[string]any{
		plain,
		{"Image": url, "Inserted": true, "WriteProtected": true, "TransferProtocolType": strings.ToUpper(scheme), "TransferMethod": "Stream"},
		{"Image": url},
	} {
		if at := drive.Actions.Insert.Target; at != "" {
			err = r.send(ctx, "insert "+url, http.MethodPost, at, "", body)
		} else {
			err = r.send(ctx, "insert "+url, http.MethodPatch, drive.ID, r.known[drive.ID].tag, body)
		}
		if s := statusOf(err); s != http.StatusBadRequest && s != http.StatusUnprocessableEntity {
			return err
		}
	}
	return err
}

// Eject implements Loader.
func (r *Redfish) Eject(ctx context.Context) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	drive, err := r.openDrive(ctx)
	if err != nil || !r.inserted(drive) {
		return err
	}
	return r.eject(ctx, drive)
}

func (r *Redfish) eject(ctx context.Context, drive *driveDoc) error {
	const what = "eject the virtual CD"
	if at := drive.Actions.Eject.Target; at != "" || drive.Actions.Insert.Target != "" {
		return explain(r.object, what, r.send(ctx, what, http.MethodPost, cmp.Or(at, drive.ID+"/Actions/VirtualMedia.EjectMedia"), "", map[string]any{}))
	}
	return explain(r.object, what, r.send(ctx, what, http.MethodPatch, drive.ID, r.known[drive.ID].tag, map[string]any{"Image": nil, "Inserted": false}))
}
