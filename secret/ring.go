package secret

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ingot-cloud/ingot/fault"
)

// A sealed value is
//
//	version (1 byte, 1) | key id (4 bytes) | nonce (12 bytes) | AES-256-GCM ciphertext and tag
//
// where the tag also covers version, key id and the name of the record, so
// that a sealed value opens only where it was put.
const (
	version   = 1
	idSize    = 4
	nonceSize = 12
	tagSize   = 16
	keySize   = 32
	overhead  = 1 + idSize + nonceSize + tagSize
)

// A KeyID names a key of a Ring. It is random and says nothing about the key.
type KeyID [idSize]byte

// String returns the id in hexadecimal digits.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

type key struct {
	id   KeyID
	raw  String
	aead cipher.AEAD
}

func newKey(id KeyID, raw []byte) (key, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return key{}, err
	}
	aead, err := cipher.NewGCM(block)
	return key{id, New(string(raw)), aead}, err
}

// A Ring holds the keys of an installation. The newest seals; all of them
// open. It may be used by many goroutines.
type Ring struct {
	mu   sync.RWMutex
	keys []key // newest first, never empty
	path string
	fix  bool // the file is not ours to write
}

// NewRing returns a Ring with one new key that is in no file, for tests.
func NewRing() *Ring {
	r := &Ring{}
	r.add()
	return r
}

// add puts a new key in front.
func (r *Ring) add() {
	raw := make([]byte, keySize)
	rand.Read(raw)
	var id KeyID
	for unique := false; !unique; {
		rand.Read(id[:])
		unique = !slices.ContainsFunc(r.keys, func(k key) bool { return k.id == id })
	}
	k, err := newKey(id, raw)
	if err != nil {
		panic(err) // the size is right
	}
	r.keys = slices.Insert(r.keys, 0, k)
}

// Primary returns the id of the key that seals.
func (r *Ring) Primary() KeyID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[0].id
}

// Keys returns the ids of all keys, newest first.
func (r *Ring) Keys() []KeyID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var ids []KeyID
	for _, k := range r.keys {
		ids = append(ids, k.id)
	}
	return ids
}

func (r *Ring) find(id KeyID) (key, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i := slices.IndexFunc(r.keys, func(k key) bool { return k.id == id })
	if i < 0 {
		return key{}, false
	}
	return r.keys[i], true
}

// Seal returns a value as it may be stored in the record of this name.
func (r *Ring) Seal(record string, value String) []byte {
	r.mu.RLock()
	k := r.keys[0]
	r.mu.RUnlock()
	out := make([]byte, 0, overhead+len(value.Reveal()))
	out = append(out, version)
	out = append(out, k.id[:]...)
	bound := bind(out, record)
	out = out[:len(out)+nonceSize]
	nonce := out[len(out)-nonceSize:]
	rand.Read(nonce)
	return k.aead.Seal(out, nonce, []byte(value.Reveal()), bound)
}

// bind returns what the tag covers besides the value.
func bind(header []byte, record string) []byte {
	return append(bytes.Clone(header), record...)
}

// KeyOf returns the id of the key that opens a sealed value; fault.Internal if
// it is none.
func KeyOf(sealed []byte) (KeyID, error) {
	if len(sealed) < overhead || sealed[0] != version {
		return KeyID{}, fault.New(fault.Internal, "", "is not a sealed value", "")
	}
	return KeyID(sealed[1 : 1+idSize]), nil
}

// Open returns what was sealed for the record of this name. The error is
// fault.Precondition if the key is not in the ring, and fault.Internal if the
// value was damaged or sealed for another record.
func (r *Ring) Open(record string, sealed []byte) (String, error) {
	id, err := KeyOf(sealed)
	if err != nil {
		return String{}, fault.Wrap(fault.Internal, "secret of "+record, "cannot be opened", err)
	}
	k, ok := r.find(id)
	if !ok {
		return String{}, fault.New(fault.Precondition, "secret of "+record, "is sealed with key "+id.String()+", which the key ring lacks", "restore the key file")
	}
	head, body := sealed[:1+idSize], sealed[1+idSize:]
	plain, err := k.aead.Open(nil, body[:nonceSize], body[nonceSize:], bind(head, record))
	if err != nil {
		return String{}, fault.New(fault.Internal, "secret of "+record, "was damaged or sealed for another record", "")
	}
	return New(string(plain)), nil
}

// Reseal returns a sealed value under the newest key, and whether that is a
// change.
func (r *Ring) Reseal(record string, sealed []byte) (resealed []byte, changed bool, err error) {
	value, err := r.Open(record, sealed)
	if err != nil {
		return nil, false, err
	}
	if id, _ := KeyOf(sealed); id == r.Primary() {
		return sealed, false, nil
	}
	return r.Seal(record, value), true, nil
}

// Rotate adds a new key, which seals from now on, and writes the file. Values
// sealed before still open; Reseal moves them to the new key.
func (r *Ring) Rotate() (KeyID, error) {
	var id KeyID
	return id, r.change(func() error {
		r.add()
		id = r.keys[0].id
		return nil
	})
}

// Forget removes a key after everything it sealed has been resealed, and
// writes the file. The newest key cannot be forgotten.
func (r *Ring) Forget(id KeyID) error {
	return r.change(func() error {
		i := slices.IndexFunc(r.keys, func(k key) bool { return k.id == id })
		switch {
		case i < 0:
			return fault.New(fault.NotFound, "key "+id.String(), "not found", "")
		case i == 0:
			return fault.New(fault.Precondition, "key "+id.String(), "is the one in use", "rotate first")
		}
		r.keys = slices.Delete(r.keys, i, i+1)
		return nil
	})
}

// change edits the keys and writes them, or leaves everything as it was.
func (r *Ring) change(edit func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fix {
		return fault.New(fault.Precondition, "key ring "+r.path, "is read-only here", "change it where it comes from")
	}
	before := slices.Clone(r.keys)
	err := edit()
	if err == nil && r.path != "" {
		err = replaceFile(r.path, r.format())
	}
	if err != nil {
		r.keys = before
	}
	return err
}

// The key file is text: a line per key, newest first, of the format's name, the
// id in hexadecimal and the key in base64. Empty lines and lines that start
// with # do not count.
const lineName = "ingot-key-v1"

func (r *Ring) format() []byte {
	var b bytes.Buffer
	b.WriteString("# The key ring of an Ingot installation. The first key seals, all of them open.\n# Without this file the secrets in the database are lost; keep it apart from backups.\n")
	for _, k := range r.keys {
		fmt.Fprintf(&b, "%s %s %s\n", lineName, k.id, base64.StdEncoding.EncodeToString([]byte(k.raw.Reveal())))
	}
	return b.Bytes()
}

// parse reads a key file. Its errors name the line and show nothing of it.
func parse(text []byte) ([]key, error) {
	var keys []key
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		bad := func(what string) error { return fault.Newf(fault.Invalid, fmt.Sprintf("line %d", n), "%s", what) }
		if len(f) != 3 || f[0] != lineName {
			return nil, bad("is not a key of a known format")
		}
		id, err := hex.DecodeString(f[1])
		if err != nil || len(id) != idSize {
			return nil, bad("the id is not one of 8 hexadecimal digits")
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(f[2])
		if err != nil || len(raw) != keySize {
			return nil, bad("the key is not one of 32 bytes in base64")
		}
		k, err := newKey(KeyID(id), raw)
		if err != nil {
			return nil, bad("the key cannot be used")
		}
		if slices.ContainsFunc(keys, func(o key) bool { return o.id == k.id }) {
			return nil, bad("the id is that of a line above")
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fault.New(fault.Invalid, "", "has no keys", "")
	}
	return keys, nil
}
