package store_test

import (
	"testing"

	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

func TestMem(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) store.KV { return store.NewMem() })
}

func TestMemModel(t *testing.T) {
	storetest.Model(t, func(*testing.T) store.KV { return store.NewMem() })
}
