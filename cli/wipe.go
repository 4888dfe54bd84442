package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/client"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// wipesName is the method whose answers can be verified.
const wipesName = protoreflect.FullName("ingot.v1.WipeService.List")

// verifyWipes checks the proofs in an answer against the keys in a file that was
// kept, or against those that the server publishes, and says what came of it on
// the standard error. It fails if one proof does.
func (k *call) verifyWipes(ctx context.Context, res protoreflect.Message) error {
	keys, err := k.wipeKeys(ctx)
	if err != nil {
		return err
	}
	list := res.Interface().(*ingotv1.WipeServiceListResponse).GetWipes()
	bad := 0
	for _, w := range list {
		if err := ingotv1.VerifyWipe(w, keys); err != nil {
			fmt.Fprintf(k.Err, "ingot: disk %s of machine %s, wiped at %s: %v\n", w.GetDisk().GetName(), w.GetUuid(), w.GetStart().AsTime().UTC().Format("2006-01-02T15:04:05Z07:00"), err)
			bad++
		}
	}
	fmt.Fprintf(k.Err, "ingot: %d of %d proofs are genuine\n", len(list)-bad, len(list))
	if bad > 0 {
		return errReported
	}
	return nil
}

// wipeKeys returns the keys to verify with.
func (k *call) wipeKeys(ctx context.Context) ([]*ingotv1.WipeKey, error) {
	if k.keysFile == "" {
		res, err := client.Of(k.caller.Client, ingotv1connect.NewWipeServiceClient).Keys(ctx, connect.NewRequest(&ingotv1.WipeServiceKeysRequest{}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetKeys(), nil
	}
	b, err := os.ReadFile(k.keysFile)
	if err != nil {
		return nil, usagef("--keys: %v", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, usagef("--keys: %s holds no keys as 'ingot machine wipe-keys -o json' prints them: %v", k.keysFile, err)
	}
	var keys []*ingotv1.WipeKey
	var failed error
	for _, j := range list {
		key := &ingotv1.WipeKey{}
		failed = errors.Join(failed, protojson.Unmarshal(j, key))
		keys = append(keys, key)
	}
	if failed != nil {
		return nil, usagef("--keys: %s: %v", k.keysFile, failed)
	}
	return keys, nil
}
