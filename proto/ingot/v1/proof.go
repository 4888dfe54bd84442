package ingotv1

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// proofType is the "typ" of proofs (RFC 7515, 4.1.9). It keeps them apart from
// every other JWS.
const proofType = "ingot-wipe+jws"

// proofHeader is the protected header of a proof (RFC 7515, 4.1).
type proofHeader struct {
	Algorithm string `json:"alg"`
	Key       string `json:"kid"`
	Type      string `json:"typ"`
}

// coordinate is the length of each half of an ES256 signature (RFC 7518, 3.4).
const coordinate = 32

var base64url = base64.RawURLEncoding.Strict()

// SignWipe sets the proof of w: a compact JWS, signed with a P-256 key that goes
// by this id, of the JSON of all else in w.
func SignWipe(w *Wipe, id string, key *ecdsa.PrivateKey) error {
	if key.Curve != elliptic.P256() {
		return errors.New("proof: the key is not on P-256")
	}
	header, err := json.Marshal(proofHeader{Algorithm: "ES256", Key: id, Type: proofType})
	if err != nil {
		return err
	}
	body, err := protojson.Marshal(bare(w))
	if err != nil {
		return err
	}
	input := base64url.EncodeToString(header) + "." + base64url.EncodeToString(body)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return err
	}
	signature := make([]byte, 2*coordinate)
	r.FillBytes(signature[:coordinate])
	s.FillBytes(signature[coordinate:])
	w.Proof = input + "." + base64url.EncodeToString(signature)
	return nil
}

// VerifyWipe returns nil if the proof of w was signed with one of the keys, and
// says what w says.
func VerifyWipe(w *Wipe, keys []*WipeKey) error {
	parts := strings.Split(w.GetProof(), ".")
	if len(parts) != 3 {
		return errors.New("there is no proof")
	}
	var decoded [3][]byte
	for i, p := range parts {
		b, err := base64url.DecodeString(p)
		if err != nil {
			return fmt.Errorf("the proof is not a compact JWS: %w", err)
		}
		decoded[i] = b
	}
	var header proofHeader
	if err := json.Unmarshal(decoded[0], &header); err != nil {
		return fmt.Errorf("the proof has no header: %w", err)
	}
	if header.Algorithm != "ES256" || header.Type != proofType {
		return fmt.Errorf("the proof is %q signed with %q, not %q with ES256", header.Type, header.Algorithm, proofType)
	}
	key, err := proofKey(keys, header.Key)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature := decoded[2]
	if len(signature) != 2*coordinate ||
		!ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:coordinate]), new(big.Int).SetBytes(signature[coordinate:])) {
		return fmt.Errorf("key %s has not signed it", header.Key)
	}
	said := &Wipe{}
	if err := protojson.Unmarshal(decoded[1], said); err != nil {
		return fmt.Errorf("the proof says nothing: %w", err)
	}
	if !proto.Equal(said, bare(w)) {
		return errors.New("the proof says something else than the record")
	}
	return nil
}

// bare returns what the proof of w is about.
func bare(w *Wipe) *Wipe {
	b := proto.CloneOf(w)
	b.Proof = ""
	return b
}

func proofKey(keys []*WipeKey, id string) (*ecdsa.PublicKey, error) {
	for _, k := range keys {
		if k.GetId() != id {
			continue
		}
		block, _ := pem.Decode([]byte(k.GetPem()))
		if block == nil {
			return nil, fmt.Errorf("key %s is not PEM", id)
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", id, err)
		}
		if p, ok := public.(*ecdsa.PublicKey); ok && p.Curve == elliptic.P256() {
			return p, nil
		}
		return nil, fmt.Errorf("key %s is not an ECDSA key on P-256", id)
	}
	return nil, fmt.Errorf("key %s, which signed it, is not among the published ones", id)
}
